import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_example_prints_what_the_page_says(capsys):
    code, printed = re.search(
        r"```python\n(.*?)```\s+prints\s+```\n(.*?)```", PAGE.read_text(), re.DOTALL
    ).groups()
    exec(code, {})
    assert capsys.readouterr().out == printed
