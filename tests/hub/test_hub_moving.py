"""The repository changes while it is pulled: what arrives is one whole map, and the commit it names is that map's."""

import hub_processes
import pytest

MOMENTS = [("HEAD", "head_map_config.json"), ("GET", "head_map_config.json")]
MOMENTS += [("HEAD", "head_map.safetensors"), ("GET", "head_map.safetensors")]


@pytest.fixture(scope="module")
def answers(hub, maps):
    """In each repository v1 lies on main until the request of that moment arrives, which is answered from v2."""
    steps = {}
    for method, file in MOMENTS:
        for how in ("main", "forced"):
            repo = f"tester/{method}-{file}-{how}".lower()
            hub.store.add(repo, maps["v1"])
            push = {"effect": lambda repo=repo: hub.store.add(repo, maps["v2"])}
            hub.fault(method, f"{repo}/resolve/.*{file}", "hang:0", **push)
            steps[method, file, how] = {"do": "pull", "repo": repo, "force_download": how == "forced"}
    return hub_processes.run(hub.url, steps)


@pytest.mark.parametrize("how", ["main", "forced"])
@pytest.mark.parametrize("method, file", MOMENTS)
def test_a_push_in_the_middle_of_a_pull(hub, answers, same, method, file, how):
    answer = answers[method, file, how]
    assert "error" not in answer, answer
    repo, commit = answer["source"].split("@")
    first, second = list(hub.store.repo(repo).commits)[1:]
    assert commit in (first, second)
    same(answer, "v1" if commit == first else "v2")
