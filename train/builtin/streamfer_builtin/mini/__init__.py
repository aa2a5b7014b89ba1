"""The built-in mini model: DFER-CLIP at small scale, trained from scratch on stills."""
