"""What the tests of the verbs share: results and head maps made by hand, saved; a runner."""

import json
import sys
from pathlib import Path

import pytest

from corehead_hf import cli

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "plots"))  # for hand_made


@pytest.fixture
def corehead(capsys):
    """corehead(...): runs a verb; its exit code, what it printed, the error's text."""

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def answer(corehead):
    """answer(...): the JSON values that a verb answers with."""

    def run(*arguments):
        code, printed, error = corehead(*arguments, "--format", "json")
        assert code == 0, error
        return json.loads(printed)

    return run


@pytest.fixture
def usage(corehead, capsys):
    """usage(...): the error's text of wrong usage, which must exit with 2."""

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            corehead(*arguments)
        assert exit_.value.code == 2
        return capsys.readouterr().err

    return run
