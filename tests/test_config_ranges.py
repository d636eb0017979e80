"""Absurd numbers are refused in one line that names the key, the value and the range."""

import pytest

from vaekit.config.load import load_config
from vaekit.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("training.seed=18446744073709551616", "at most 9.0072e+15"),
        ("data.seed=18446744073709551616", "at most 9.0072e+15"),
        ("training.epochs=1e300", "at most 1e+09"),
        ("data.size=1000000000", "at most 16384"),
        ("data.size=-1", "at least 1"),
        ("data.pad=[8, 1000000000]", "at most 16384"),
    ],
)
def test_an_absurd_number_is_refused_with_its_key_and_range(override, allowed):
    with pytest.raises(ConfigError) as caught:
        load_config("digits", [override])
    said = str(caught.value)
    assert "\n" not in said
    assert override.partition("=")[0] in said
    assert allowed in said
