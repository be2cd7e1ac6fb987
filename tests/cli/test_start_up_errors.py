"""What keeps a command from starting is one sentence, however deep it was raised."""

import click
import pytest

from arkgate.cli.running import start_up_errors
from arkgate.core.errors import StoreUnavailable
from arkgate.store.keyfile import KeyfileError


@pytest.mark.parametrize(
    "error",
    [OSError("it is so"), KeyfileError("it is so"), StoreUnavailable("it is so")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_a_sentence_alone_or_in_groups(error: Exception) -> None:
    for raised in (error, ExceptionGroup("tasks", [ExceptionGroup("task", [error])])):
        with pytest.raises(click.ClickException, match="it is so"), start_up_errors():
            raise raised


def test_a_fault_of_the_program_is_not_made_a_sentence() -> None:
    with pytest.raises(ZeroDivisionError), start_up_errors():
        raise ZeroDivisionError
