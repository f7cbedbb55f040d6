"""Completion in bash: verbs, options, their values, networks and recipes; the script for fish has the same words."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from resnet_jax.cli.completion import bash_script, fish_script
from resnet_jax.cli.main import VERBS
from resnet_jax.models import list_models

COMPLETE = """
while read -r line; do
  read -r -a COMP_WORDS <<< "$line"
  [[ "$line" == *' ' ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _resnet_jax
  echo "${COMPREPLY[*]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_verbs_options_values_networks_and_recipes(tmp_path):
    (tmp_path / "cat.png").touch()
    asked = {
        "resnet-jax tra": ["train"],
        "resnet-jax --json mod": ["models"],
        "resnet-jax depth jac": ["jacobian"],
        "resnet-jax train fashion": ["fashion-mnist"],
        "resnet-jax train digits --optim.schedule.mil": ["--optim.schedule.milestones"],
        "resnet-jax train digits --model.norm ba": ["batch"],
        "resnet-jax depth profile resnet50_v": ["resnet50_v1"],
        "resnet-jax plan resnet18 --dty": ["--dtype"],
        "resnet-jax weights fold x --ou": ["--out"],
        "resnet-jax predict runs/x ca": ["cat.png"],
        "resnet-jax train digits --model.name airbench94": ["airbench94_cifar"],
        "resnet-jax nonsense --ju": [],
    }
    script = tmp_path / "completion.bash"
    script.write_text(bash_script() + COMPLETE.replace("read -r line", "IFS= read -r line"))
    ran = subprocess.run(["bash", script.name], input="\n".join(asked) + "\n", capture_output=True, text=True,
                         check=True, cwd=tmp_path)  # fmt: skip
    assert ran.stderr == ""
    assert dict(zip(asked, [line.split() for line in ran.stdout.splitlines()], strict=True)) == asked


@pytest.mark.slow
def test_fish_and_the_command_have_the_same_words(command):
    fish = fish_script()
    assert all(f"-f -a {verb} " in fish for verb in VERBS)
    assert list_models()[0] in fish
    status, out, err = command("completion", "zsh")
    assert (status, err) == (0, "")
    assert out.startswith("autoload")
    assert bash_script() in out
