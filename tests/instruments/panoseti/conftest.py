"""A data directory of two modules, and servers of it."""

import pytest
from support.pano_files import append, file_name, made_frames, run_directory
from support.pano_server import served, served_here


@pytest.fixture
def data_dir(tmp_path):
    """Two modules with a finished movie file and a finished pulse-height file each."""
    root = tmp_path / "data"
    for module in (1, 2):
        for product in ("img16", "ph256"):
            frames = made_frames(product, 8, seed=module, module=module)
            append(run_directory(root, module) / file_name(product, module), frames, 0, 8)
    return root


@pytest.fixture
def server(tmp_path, data_dir):
    with served_here(tmp_path, data_dir) as running:
        yield running


@pytest.fixture
def process(tmp_path, data_dir):
    with served(tmp_path, "--data-dir", data_dir) as running:
        yield running
