"""PrefEval (Zhao et al., 2025): does an answer follow a preference that was stated, chosen or said in passing?"""
