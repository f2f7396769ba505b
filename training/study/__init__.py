"""The paper's questions, measured: what the order of tokens, training in stages and the kind of experts are worth.

Nothing here is needed to train, export or serve a tokenizer.
"""
