"""Trunks below a score head: BERT, DeBERTa, GPT-2, LLaMA."""
