"""Rewards: exact answers, formats and a user's own function, each with its weight."""

from pathlib import Path

import pytest

from tuneport.errors import DataError, UsageError
from tuneport.tuning.rewards import check_rewards, parse_reward


def test_exact_rewards_the_answer_whatever_white_space_is_around_it() -> None:
    reward = parse_reward("exact")
    assert reward.function(completions=[" 12\n", "12.", "1 2"], answer=["12", "12", "12"], prompts=[]) == [1, 0, 0]


def test_exact_reads_the_text_of_spoken_completions() -> None:
    said = [[{"role": "assistant", "content": "12"}], [{"role": "assistant", "content": "no"}]]
    assert parse_reward("exact").function(completions=said, answer=["12", "12"]) == [1, 0]


def test_a_format_must_match_the_whole_completion_and_may_hold_an_equals_sign() -> None:
    reward = parse_reward(r"0.25*format=\d+ = \d+")
    assert reward.weight == 0.25
    assert reward.function(completions=["2 = 2", " 2 = 2 ", "so 2 = 2"]) == [1, 1, 0]


def test_a_users_function_is_found_where_the_command_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards_of_this_test.py").write_text(
        "def short(completions, **_):\n    return [-len(c) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    reward = parse_reward("2*my_rewards_of_this_test:short")
    assert (reward.name, reward.weight) == ("short", 2)
    assert reward.function(completions=["abc", ""]) == [-3, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nearly", "must be exact"),
        ("format=(", "not a valid regular expression"),
        ("absent_module_xyz:f", "no module 'absent_module_xyz'"),
        ("json:absent", "has no function absent"),
        ("tests_do_not_run;rm", "must be exact"),
    ],
)
def test_a_reward_that_cannot_be_meant_is_wrong_usage(text: str, words: str) -> None:
    with pytest.raises(UsageError, match="rewards=") as caught:
        parse_reward(text)
    assert words in str(caught.value)


def test_exact_without_answers_in_the_data_is_refused() -> None:
    rows = [{"prompt": "a", "answer": "b"}, {"prompt": "c"}, {"prompt": "d", "answer": 4}]
    with pytest.raises(DataError, match=r"2 row\(s\).*row 2"):
        check_rewards([parse_reward("exact")], [("data", rows)])
    check_rewards([parse_reward("format=x")], [("data", rows)])
