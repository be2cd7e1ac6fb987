"""What `deploy/` holds is right as far as can be told without a container engine."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from arkgate import settings
from arkgate.store.keyfile import KeyfileError, load_keyring, load_or_create_keyring

DEPLOY = Path(__file__).parent.parent / "deploy"
USER = 10001
GRACE_SECONDS = 130
"""What `grace_seconds` is when nobody says otherwise."""


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


def needs(command: str, package: str) -> str:
    found = shutil.which(command)
    if found is None:
        pytest.skip(f"needs {command}: apt-get install {package}")
    return found


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's lines as instruction and rest, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def copied(project: Path) -> Iterator[Path]:
    """What the Dockerfile copies from the checkout; all of it is there."""
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            for source in sources:
                assert (project / source).exists(), source
                yield project / source


def test_the_image_runs_as_nobody_and_is_built_from_what_it_is_given(project: Path) -> None:
    said = dict(instructions())
    allowed = [
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    ]

    assert said["USER"] == str(USER)
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert said["ENTRYPOINT"] == '["arkgate"]'
    assert "/health/live" in said["HEALTHCHECK"]
    for source in copied(project):
        name = str(source.relative_to(project))
        assert any(fnmatch.fnmatch(name, pattern) for pattern in allowed), name


def test_the_wheel_has_every_file_that_the_program_reads(project: Path, tmp_path: Path) -> None:
    for source in copied(project):
        target = tmp_path / "context" / source.relative_to(project)
        target.parent.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        (shutil.copytree(source, target, ignore=ignored) if source.is_dir() else shutil.copy(source, target))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--wheel-dir", tmp_path, tmp_path / "context"],
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    package = project / "src" / "arkgate"
    read = {
        str(one.relative_to(package.parent))
        for one in package.rglob("*")
        if one.is_file() and "__pycache__" not in one.parts
    }

    assert read - packed == set()
    assert len(read) > 200


def test_the_settings_of_the_compose_file_are_good(tmp_path: Path) -> None:
    text = (DEPLOY / "arkgate.toml").read_text()
    written = tmp_path / "arkgate.toml"
    (tmp_path / "tls.cert").write_text("x")
    (tmp_path / "invoice.macaroon").write_text("x")
    for name in ("tls.cert", "invoice.macaroon"):
        text = re.sub(rf'"/lnd/\S*{name}"', f'"{tmp_path}/{name}"', text)
    written.write_text(text)

    loaded = settings.load(written)

    assert loaded.listen.port == 8402
    assert loaded.operator_listen.host == "127.0.0.1"
    assert [str(one) for one in loaded.trusted_proxies] == ["172.30.0.0/24"]


def test_the_compose_file_gives_no_container_more_than_it_needs() -> None:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    gateway, lnd = document["services"]["gateway"], document["services"]["lnd"]

    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    assert seconds(gateway["stop_grace_period"]) > GRACE_SECONDS
    assert "ports" not in gateway  # only the TLS proxy reaches it
    assert lnd["user"].split(":")[0] != str(USER)
    assert "./state/lnd-shared:/lnd:ro" in gateway["volumes"]
    assert not any("state/lnd:" in volume for volume in gateway["volumes"])  # what may spend
    (subnet,) = document["networks"]["edge"]["ipam"]["config"]
    assert f'"{subnet["subnet"]}"' in (DEPLOY / "arkgate.toml").read_text()
    for name, service in document["services"].items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (
                source in document["volumes"] or source.startswith("./state/") or (DEPLOY / source).exists()
            )


def test_the_kubernetes_manifests_belong_together() -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    kinds = {one["kind"]: one for one in documents}
    spec = kinds["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    ports = {one["name"] for one in container["ports"]}

    assert spec["replicas"] == 2
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == USER
    assert pod["terminationGracePeriodSeconds"] > GRACE_SECONDS + 5
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert kinds["Service"]["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert kinds["Service"]["spec"]["ports"][0]["targetPort"] in ports
    labels = kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    assert labels == spec["selector"]["matchLabels"]


def test_the_settings_in_kubernetes_are_good_and_shared(tmp_path: Path) -> None:
    config = next(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    text = config["data"]["arkgate.toml"]
    for name in ("tls.cert", "invoice.macaroon"):
        (tmp_path / name).write_text("x")
        text = text.replace(f"/secrets/{name}", f"{tmp_path}/{name}")
    (tmp_path / "arkgate.toml").write_text(text)

    loaded = settings.load(tmp_path / "arkgate.toml")

    assert loaded.store_url.startswith("postgresql://")
    assert str(loaded.keys_file) == "/data/arkgate-keys.json"
    assert loaded.operator_listen.host == "127.0.0.1"


def test_the_keys_of_a_secret_become_a_file_that_the_gateway_takes(tmp_path: Path) -> None:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = next(one for one in documents if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    (copying,) = pod["initContainers"]
    for name in ("secrets", "data"):
        (tmp_path / name).mkdir()
    kept = load_or_create_keyring(tmp_path / "made.json", books_exist=False)
    secret = tmp_path / "secrets" / "arkgate-keys.json"
    secret.write_bytes((tmp_path / "made.json").read_bytes())
    secret.chmod(0o640)
    script = copying["command"][2]
    for name in ("secrets", "data"):
        script = script.replace(f'"/{name}/', f'"{tmp_path}/{name}/')

    with pytest.raises(KeyfileError, match="may be read by others"):
        load_keyring(secret)
    subprocess.run([sys.executable, "-c", script], check=True)
    assert load_keyring(tmp_path / "data" / "arkgate-keys.json").versions == kept.versions
    assert copying["image"] == pod["containers"][0]["image"]


def test_the_unit_is_one_that_systemd_takes_and_is_hardened(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze", "systemd")
    program = tmp_path / "arkgate"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (DEPLOY / "arkgate.service").read_text()
    unit = tmp_path / "arkgate.service"
    unit.write_text(text.replace("/opt/arkgate/.venv/bin/arkgate", str(program)))
    verified = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    rated = subprocess.run(
        [analyze, "security", "--offline=true", unit], capture_output=True, text=True, check=False
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", rated.stdout)

    assert (verified.returncode, verified.stderr) == (0, "")
    assert found, rated.stdout + rated.stderr
    assert float(found.group(1)) < 2
    assert int(re.findall(r"TimeoutStopSec=(\d+)", text)[0]) > GRACE_SECONDS


def test_nginx_takes_its_snippet(tmp_path: Path) -> None:
    nginx = needs("nginx", "nginx-light")
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"]
    files = ["-keyout", f"{tmp_path}/privkey.pem", "-out", f"{tmp_path}/fullchain.pem"]
    subprocess.run([*certificate, *files], check=True, capture_output=True)
    snippet = (
        (DEPLOY / "nginx.conf").read_text().replace("/etc/letsencrypt/live/api.example.com", str(tmp_path))
    )
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\nhttp {{\n{snippet}\n}}\n"
    )
    done = subprocess.run(
        [nginx, "-t", "-c", tmp_path / "nginx.conf", "-p", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "proxy_buffering off" in snippet
    assert "proxy_buffer_size 16k" in snippet
    assert "proxy_next_upstream off" in snippet


def test_caddy_takes_its_file(tmp_path: Path) -> None:
    caddy = needs("caddy", "caddy")
    done = subprocess.run(
        [caddy, "validate", "--config", DEPLOY / "Caddyfile", "--adapter", "caddyfile"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )

    assert done.returncode == 0, done.stderr
    # With -1 Caddy keeps the request open whose reader has left, who then pays for the rest.
    assert "flush_interval -1" not in (DEPLOY / "Caddyfile").read_text()
