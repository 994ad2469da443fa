"""The lean decoder: decoder-only language models on the native kernels, without torch and transformers.

families.py  what each family is, as data       design.py   one model, resolved: layer by layer
program.py   design + file -> a list of steps   engine.py   prompts, tokens, caches
text.py      tokenizer, stop texts              lean.py     a file opened: generate, stream, chat
"""
