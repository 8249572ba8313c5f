import os
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
if workers := int(
    os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")
):  # processes that share the cores; torch reads this once
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
sys.path.insert(0, str(Path(__file__).parent))  # for `tiny`; never the repository root

import tiny

TOGETHER = (
    "tests/comfy/",
    "tests/panel/test_page.py",
    "tests/test_bench.py",
    "tests/test_faults.py",
)  # tests that share something that takes long to make, a server say


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each of TOGETHER goes to one process, every other test to whichever is free.

    (Marks would do, but `--dist loadgroup` of xdist 3.8 groups nothing under pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class TogetherScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((group for group in TOGETHER if nodeid.startswith(group)), nodeid)

    return TogetherScheduling(config, log)


@pytest.fixture(scope="session", params=tiny.FAMILY_NAMES)
def family(request):
    """A thin random model of each family in turn."""
    return tiny.make(request.param)


@pytest.fixture(scope="session")
def sd1():
    return tiny.make("sd1")


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    """A thin random SD1 model with 8 x 8 latents, loaded."""
    from sage_core import load_model

    return load_model(tiny.folder(tiny.make("sd1"), tmp_path_factory.mktemp("thin") / "m"))


@pytest.fixture
def demo():
    """The bundled model, fresh."""
    from sage_core import load_model

    return load_model("demo")
