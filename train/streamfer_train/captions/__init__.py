"""Caption synthesis: from labels to rule captions, sentences of a grammar, and texts rewritten by a language model."""
