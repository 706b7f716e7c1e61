"""Time and memory: mixers against the number of tokens, networks against MONAI's."""
