"""How a test looks at an answer that must be an error."""

import re

NOT_FOUND, ACCESS, CONNECTION, CONFLICT, FORMAT = (
    f"HeadMap{name}Error" for name in ("NotFound", "Access", "Connection", "Conflict", "Format")
)
FOR_EVER = 1000
# What each promises to those who catch builtin exceptions.
BUILTIN = {
    NOT_FOUND: {"HeadMapHubError", "OSError", "FileNotFoundError"},
    ACCESS: {"HeadMapHubError", "OSError", "PermissionError"},
    CONNECTION: {"HeadMapHubError", "OSError", "ConnectionError"},
    CONFLICT: {"HeadMapHubError", "OSError"},
    FORMAT: {"ValueError"},
}


def check_error(answer, error, words, causes):
    """Fails unless the answer is this error, says all of these words (a|b) and was caused by one of these classes.

    Args:
        causes: class names, "any" for any, "" for none.
    """
    assert answer.get("error") == error, answer
    assert {"HeadMapError", *BUILTIN[error]} <= set(answer["bases"])
    if causes:
        assert answer["causes"], f"the cause is lost: {answer}"
        assert causes == "any" or set(causes.split()) & set(answer["causes"]), answer["causes"]
    for word in words.split("|"):
        assert word in answer["message"], f"{word!r} is not in {answer['message']!r}"
    parts = re.split(" - ", answer["message"])
    assert len(parts) >= 3 and answer["message"].endswith("."), f"asked - true - do: {answer['message']!r}"
    assert not re.search(r"hf_(owner|guest|reader|wrong)", str(answer)), "a token in a message or a log line"
