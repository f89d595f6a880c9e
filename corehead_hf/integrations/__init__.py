"""Other people's evaluation harnesses on CoRe-wrapped models.

`lmms_eval.py` is found by lmms-eval through the entry point of setup.cfg; nothing here is imported otherwise.
"""
