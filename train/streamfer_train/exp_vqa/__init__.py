"""Exp-VQA: a captioner that answers questions about a face, trained in one stage and measured by likelihoods."""
