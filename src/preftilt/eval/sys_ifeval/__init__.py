"""S-IFEval: instructions in the system message whose following a program checks (IFEval, arXiv 2311.07911)."""
