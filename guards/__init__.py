"""The checks a request passes: text and numbers in, an answer out; they import nothing of ours."""
