"""Container file, Kubernetes manifests, script and bundles of the EPU services."""

import base64
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

ROOT = Path(__file__).parents[4]
DEPLOY = ROOT / "deploy" / "epu"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
VERSION = "1.31"


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def is_manifest(document: dict[str, Any]) -> bool:
    return "kustomize" not in document["apiVersion"]


def base() -> list[dict[str, Any]]:
    files = sorted((KUBERNETES / "base").glob("*.yaml"))
    found = [document for file in files for document in documents(file.read_text())]
    return [document for document in found if is_manifest(document)]


def rendered(overlay: str) -> list[dict[str, Any]]:
    """Apply a kustomization as `kubectl kustomize` does, as far as ours go.

    The kubectl of Debian 12 is too old for them, so tests render without one. It knows resources,
    labels, generators with `behavior: merge`, patches by path, images, replicas and the namespace;
    a field that it does not know is an error. Names keep no hash of their content.
    """
    return applied(KUBERNETES / "overlays" / overlay)


def applied(directory: Path) -> list[dict[str, Any]]:
    """Return the manifests of a kustomization, and those of the files that it names."""
    wanted = yaml.safe_load((directory / "kustomization.yaml").read_text())
    assert (wanted.pop("apiVersion"), wanted.pop("kind")) == (
        "kustomize.config.k8s.io/v1beta1",
        "Kustomization",
    )
    found: list[dict[str, Any]] = []
    for name in wanted.pop("resources"):
        place = directory / name
        found += applied(place) if place.is_dir() else documents(place.read_text())
    named = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(named) == len(found)
    for kind, field in (("ConfigMap", "data"), ("Secret", "stringData")):
        for each in wanted.pop(f"{kind[0].lower()}{kind[1:]}Generator", []):
            literals = dict(literal.split("=", 1) for literal in each["literals"])
            key = (kind, each["name"])
            assert (key in named) == (each.get("behavior") == "merge")
            made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": each["name"]}, field: {}}
            named.setdefault(key, made)[field].update(literals)
    for each in wanted.pop("patches", []):
        for patch in documents((directory / each["path"]).read_text()):
            key = (patch["kind"], patch["metadata"]["name"])
            named[key] = merged(named[key], patch)
    for each in wanted.pop("labels", []):
        assert not each["includeSelectors"]
        for manifest in named.values():
            manifest["metadata"].setdefault("labels", {}).update(each["pairs"])
    for each in wanted.pop("replicas", []):
        named["Deployment", each["name"]]["spec"]["replicas"] = each["count"]
    images = {
        each["name"]: f"{each['newName']}:{each['newTag']}" for each in wanted.pop("images", [])
    }
    for (kind, _), manifest in named.items():
        if kind in ("Deployment", "StatefulSet"):
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                container["image"] = images.get(container["image"], container["image"])
    if namespace := wanted.pop("namespace", None):
        for (kind, _), manifest in named.items():
            if kind != "Namespace":
                manifest["metadata"]["namespace"] = namespace
    assert not wanted, f"{directory}: fields that this function does not know"
    return list(named.values())


def merged(below: Any, patch: Any) -> Any:
    """Merge a patch as Kubernetes does: lists of things with names (or ports) thing by thing."""
    if isinstance(below, dict) and isinstance(patch, dict):
        return below | {key: merged(below.get(key), value) for key, value in patch.items()}
    if isinstance(below, list) and isinstance(patch, list) and isinstance(patch[0], dict):
        keys = [name_of(each) for each in below]
        result = list(below)
        for each in patch:
            if (key := name_of(each)) in keys:
                result[keys.index(key)] = merged(below[keys.index(key)], each)
            else:
                result.append(each)
        return result
    return patch


def name_of(thing: dict[str, Any]) -> Any:
    """Return by what Kubernetes knows a thing in a list: ports by number, others by name."""
    return thing.get("containerPort") or thing.get("port") or thing.get("name")


def commands(manifests: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Arguments of our containers by name."""
    return {
        container["name"]: container["args"]
        for manifest in manifests
        if manifest["kind"] == "Deployment"
        for container in manifest["spec"]["template"]["spec"]["containers"]
    }


@pytest.mark.parametrize(
    "manifest", base(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}"
)
def test_the_base_is_valid(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_valid(overlay: str) -> None:
    manifests = rendered(overlay)
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == f"epu-{overlay}"
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    assert {
        ("Deployment", "api"),
        ("Deployment", "consumer"),
        ("StatefulSet", "postgresql"),
        ("StatefulSet", "rabbitmq"),
        ("ServiceAccount", "epu"),
    } <= names


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="compares with kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_rendered_here_as_kubectl_does(overlay: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / "overlays" / overlay],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unmarshal" in done.stderr:
        pytest.skip("kubectl is too old for these overlays")
    assert done.returncode == 0, done.stderr
    text = re.sub(r"\b(epu-(?:settings|credentials))-[a-z0-9]{10}\b", r"\1", done.stdout)
    expected = documents(text)
    for manifest in expected:
        if manifest["kind"] == "Secret":
            data = {
                name: base64.b64decode(value).decode()
                for name, value in manifest.pop("data").items()
            }
            del manifest["type"]
            manifest["stringData"] = data
        for claim in manifest["spec"].get("volumeClaimTemplates", []) if "spec" in manifest else []:
            claim.get("metadata", {}).pop("creationTimestamp", None)

    def key(one: dict[str, Any]) -> tuple[str, str]:
        return one["kind"], one["metadata"]["name"]

    assert sorted(rendered(overlay), key=key) == sorted(expected, key=key)


def test_overlays_are_the_three_that_the_issue_names() -> None:
    assert OVERLAYS == ["development", "production", "staging"]


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_no_password_is_in_the_overlays_for_others(overlay: str) -> None:
    assert not [one for one in rendered(overlay) if one["kind"] == "Secret"]


def test_pods_pull_with_a_secret_and_run_without_rights() -> None:
    (account,) = [one for one in base() if one["kind"] == "ServiceAccount"]
    assert account["imagePullSecrets"]
    for manifest in base():
        if manifest["kind"] not in ("Deployment", "StatefulSet"):
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == "epu"
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_every_container_says_when_it_is_ready() -> None:
    """Without a readinessProbe, `rollout status` in `cluster up` is satisfied at once."""
    probes = {
        container["name"]: container["readinessProbe"]
        for manifest in base()
        if manifest["kind"] in ("Deployment", "StatefulSet")
        for container in manifest["spec"]["template"]["spec"]["containers"]
    }
    assert set(probes) == {"api", "consumer", "postgresql", "rabbitmq"}
    file = commands(base())["consumer"][-1]
    assert probes["consumer"]["exec"]["command"] == ["test", "-f", file]


def test_the_containers_commands_exist() -> None:
    from skywright.instruments.epu.cli_services import app

    for arguments in commands(base()).values():
        result = CliRunner().invoke(app, [*arguments, "--help"])
        assert result.exit_code == 0, result.output
        help_text = CliRunner().invoke(app, [arguments[0], "--help"], env={"COLUMNS": "200"}).output
        for option in arguments[1:]:
            if option.startswith("--"):
                assert option in help_text
    text = (DEPLOY / "Containerfile").read_text()
    assert '"serve"' in text
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(re.findall(r"\.\[(\w+)\]", text)) <= set(extras["optional-dependencies"])


def test_settings_of_the_pods_are_those_that_the_services_read() -> None:
    from skywright.instruments.epu.broker.connection import broker_settings

    kustomization = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())
    literals = kustomization["configMapGenerator"][0]["literals"]
    settings = dict(literal.split("=", 1) for literal in literals)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**settings, "RABBITMQ_PASSWORD": "secret"}.items():
            patch.setenv(name, value)
        patch.delenv("RABBITMQ_QUEUE", raising=False)
        found = broker_settings(None)
    assert found is not None
    assert found.url == "amqp://epu:secret@rabbitmq:5672/%2F"


def test_the_script_runs_kubectl_as_the_overlay_says(tmp_path: Path) -> None:
    """With a kubectl that only notes its arguments."""
    log = tmp_path / "log"
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    kubectl.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def cluster(*arguments: str) -> tuple[int, list[str]]:
        log.write_text("")
        done = subprocess.run(
            [DEPLOY / "cluster", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, log.read_text().splitlines()

    status, lines = cluster("up", "staging")
    assert status == 0
    assert any(line.startswith("apply -k ") and line.endswith("/staging") for line in lines)
    waited = [line.rpartition(" ")[2] for line in lines if "rollout status" in line]
    assert waited == [
        "statefulset/postgresql",
        "statefulset/rabbitmq",
        "deployment/api",
        "deployment/consumer",
    ]
    assert cluster("logs", "staging", "api", "--follow") == (
        0,
        ["--namespace epu-staging logs --all-containers --follow deployment/api"],
    )
    assert (
        "--namespace epu-production rollout restart deployment/consumer"
        in (cluster("restart", "production", "consumer")[1])
    )
    assert cluster("status", "production")[0] == 0
    assert not any("persistentvolumeclaims" in line for line in cluster("down", "staging")[1])
    for bad in ((), ("up",), ("up", "none"), ("sleep", "staging"), ("logs", "staging", "none")):
        assert cluster(*bad)[0] == 2, bad


@pytest.mark.parametrize("name", ["json", "gelf"])
def test_logs_for_a_central_server(name: str) -> None:
    code = (
        "import logging; from skywright.instruments.epu.service_logs import log_service\n"
        "log_service(0); log = logging.getLogger('skywright.test'); log.info('hello %s', 1)\n"
        "try: 1 / 0\nexcept ZeroDivisionError: log.exception('two\\nlines')"
    )
    environment = {"SKYWRIGHT_LOG_FORMAT": name, "SMARTEM_LOG_LEVEL": "INFO"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={key: value for key, value in os.environ.items() if key != "SKYWRIGHT_LOG_LEVEL"}
        | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    import json

    first, second = [json.loads(line) for line in done.stderr.splitlines()]
    if name == "json":
        assert (first["level"], first["message"]) == ("INFO", "hello 1")
        assert "ZeroDivisionError" in second["exception"]
    else:
        assert (first["version"], first["level"], first["short_message"]) == ("1.1", 6, "hello 1")
        assert second["short_message"] == "two"
        assert "ZeroDivisionError" in second["full_message"]


def test_a_bundle_takes_wheels_for_older_versions_of_glibc() -> None:
    platforms = runpy.run_path(str(DEPLOY / "agent" / "bundle.py"))["platforms"]
    assert platforms("win_amd64") == ["win_amd64"]
    assert platforms("manylinux2014_x86_64") == ["manylinux2014_x86_64"]
    assert platforms("manylinux_2_18_aarch64") == [
        "manylinux_2_18_aarch64",
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
    ]


@pytest.mark.soak
def test_a_wheel_bundle_installs_without_a_network(tmp_path: Path) -> None:
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    out = tmp_path / "bundle"
    bundle = [sys.executable, DEPLOY / "agent" / "bundle.py", "wheels", out]
    here = ["--platform", "manylinux_2_28_x86_64", "--python", python]
    subprocess.run([*bundle, *here], check=True)
    locked = (ROOT / "requirements.lock").read_text().splitlines()
    # A later version may not be what skywright was tested with
    (orm,) = out.glob("sqlalchemy-*.whl")
    assert "==".join(orm.name.split("-")[:2]) in locked
    subprocess.run([out / "install.sh"], check=True, env=os.environ | {"PIP_NO_INDEX": "1"})
    agent = out / "agent" / "bin" / "skywright"
    subprocess.run([agent, "epu", "--help"], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.soak
def test_the_executable_runs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, DEPLOY / "agent" / "bundle.py", "executable", tmp_path], check=True
    )
    agent = tmp_path / "skywright-epu-agent"
    subprocess.run([agent, "epu", "--help"], check=True, stdout=subprocess.DEVNULL)
