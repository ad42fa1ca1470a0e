"""MATH-500, AIME 2024 and AMC 2023: problems with one final answer, checked without a judge."""
