"""The configuration of the platform of this computer: one Airflow, sized for one host.

In: the settings. Out: `$PIECEWORK_HOME/airflow` with airflow.cfg, its secrets (mode 0600) and a
port that is chosen once and remembered. Nothing here imports Airflow.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piecework.config import Settings
from piecework.errors import PlatformError

#: The user of the REST API that the platform makes for itself.
USER = "admin"
_PORTS = range(20_000, 32_000)
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
#: Runs beside them where a machine pool is on a cluster.
KEEPER = "keeper"
#: Begins the tag of a DAG, and the last line of an import error, that names the content of the
#: published file.
CONTENT_TAG = "content:"
#: Every process of the platform carries this variable; it holds the folder of its platform.
PLATFORM_VARIABLE = "PIECEWORK_PLATFORM"


def components_of(settings: Settings) -> tuple[str, ...]:
    """What the platform consists of with these settings."""
    tables = (table for table in settings.pools.values() if isinstance(table, Mapping))
    on_cluster = any(table.get("provider", "local") != "local" for table in tables)
    return (*COMPONENTS, KEEPER) if on_cluster else COMPONENTS


def hostname() -> str:
    """Airflow's name for this host: no look-up, because its default asks the DNS and may hang."""
    return "127.0.0.1"


@dataclass(frozen=True, slots=True)
class PlatformFolder:
    """Where the parts of the platform lie, below `$PIECEWORK_HOME`."""

    home: Path

    @property
    def root(self) -> Path:
        return self.home / "airflow"

    @property
    def published(self) -> Path:
        """What was published: the folder from which pipelines become DAGs."""
        return self.home / "pipelines"

    @property
    def config(self) -> Path:
        return self.root / "airflow.cfg"

    @property
    def passwords(self) -> Path:
        return self.root / "passwords.json"

    @property
    def state(self) -> Path:
        """The port and the secrets, chosen once."""
        return self.root / "platform.json"

    @property
    def access(self) -> Path:
        """Address and key of the API, for the supervisors of attempts (runners/owner.py)."""
        return self.root / "api.json"

    @property
    def components(self) -> Path:
        """What the foreman started: process ids with start times, restarts, last errors."""
        return self.root / "components.json"

    @property
    def lock(self) -> Path:
        """Held while somebody brings the platform up or down."""
        return self.root / "up.lock"

    @property
    def foreman_lock(self) -> Path:
        """Held by the foreman as long as it lives."""
        return self.root / "foreman.lock"

    @property
    def database(self) -> Path:
        return self.root / "airflow.sqlite"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"


def write_private(path: Path, text: str) -> None:
    """Replaces a file that only its owner may read, in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none or it is damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


#: The DAG file that lets any job be requested over the REST API.
_SUBMIT = '''\
"""Any job, requested over the REST API alone (airflow DAG)."""
from piecework.airflow.submission import submit_dag

dag = submit_dag()
'''
_ONE_WRITER = "from piecework.airflow.one_writer import OneWriterPlugin\n"


def configure(settings: Settings) -> str:
    """Writes the configuration, with the port and the secrets of before; returns the API's URL."""
    folder = PlatformFolder(settings.home)
    parts = (folder.root / "dags", folder.root / "plugins")
    for path in (folder.root, folder.logs, folder.published, *parts):
        path.mkdir(parents=True, exist_ok=True)
    folder.root.chmod(0o700)
    state = read_json(folder.state)
    for name in ("password", "jwt_secret", "secret_key"):
        state.setdefault(name, secrets.token_urlsafe(64))
    state.setdefault("fernet_key", base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    state["port"] = _choose_port(settings.airflow_port or int(state.get("port", 0)), settings)
    write_private(folder.state, json.dumps(state))
    write_private(folder.passwords, json.dumps({USER: state["password"]}) + "\n")
    access = {"url": url_of(state), "username": USER, "password": state["password"]}
    write_private(folder.access, json.dumps(access))
    write_private(folder.root / "dags" / "piecework_submit.py", _SUBMIT)
    write_private(folder.root / "plugins" / "piecework_one_writer.py", _ONE_WRITER)
    write_private(folder.config, _render(_sections(folder, state)))
    return url_of(state)


def url_of(state: dict[str, Any]) -> str:
    """The base URL of the platform whose state this is."""
    return f"http://127.0.0.1:{state['port']}"


def _choose_port(wanted: int, settings: Settings) -> int:
    """The wanted port, else a free one below those that the kernel gives to outgoing connections:
    one of those could be taken by anybody while the platform is down.
    """
    candidates = [wanted] if wanted else []
    if not settings.airflow_port:
        candidates += [secrets.choice(_PORTS) for _ in range(50)]
    for port in candidates:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    if settings.airflow_port:
        raise PlatformError(
            f"port {wanted} is taken, and airflow_port asks for it; "
            "free it, or set airflow_port = 0 to take a free one"
        )
    raise PlatformError("no free port on 127.0.0.1 for Airflow's REST API")


def _sections(folder: PlatformFolder, state: dict[str, Any]) -> dict[str, dict[str, object]]:
    """Airflow's settings. Seconds throughout, where the name doesn't say otherwise.

    One host sees a death at once, so what is tuned for a cluster (300 s until a lost worker is
    noticed, 300 s between retries) is shortened. Jobs run neither in workers nor in slots of a
    pool: what limits them is machines, so Airflow's own limits are out of the way.
    """
    url = url_of(state)
    bundles = [
        {
            "name": "pipelines",
            "classpath": "piecework.airflow.bundle.PipelineBundle",
            "kwargs": {"path": str(folder.published), "refresh_interval": 1},
        },
        {
            "name": "dags-folder",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(folder.root / "dags"), "refresh_interval": 1},
        },
    ]
    return {
        "core": {
            "dags_folder": folder.root / "dags",
            "plugins_folder": folder.root / "plugins",
            "executor": "LocalExecutor",
            "parallelism": max(2, os.cpu_count() or 2),
            "max_active_tasks_per_dag": 10_000,
            "max_active_runs_per_dag": 1_000,
            "default_pool_task_slot_count": 10_000,
            "dags_are_paused_at_creation": False,
            "load_examples": False,
            "fernet_key": state["fernet_key"],
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": folder.passwords,
            "execution_api_server_url": f"{url}/execution/",
            "hostname_callable": "piecework.airflow.configuration.hostname",
            "dagbag_import_timeout": 120,
            "min_serialized_dag_update_interval": 0,
            "default_task_retry_delay": 5,
        },
        "database": {
            "sql_alchemy_conn": f"sqlite:///{folder.database}",
            "sql_alchemy_connect_args": "piecework.airflow.configuration.CONNECT",
        },
        "scheduler": {
            "job_heartbeat_sec": 2,
            "scheduler_heartbeat_sec": 2,
            "scheduler_idle_sleep_time": 0.5,
            "scheduler_health_check_threshold": 10,
            "orphaned_tasks_check_interval": 10,
            "task_instance_heartbeat_sec": 5,
            "task_instance_heartbeat_timeout": 30,
            "task_instance_heartbeat_timeout_detection_interval": 5,
            "max_tis_per_query": 0,
            "enable_health_check": False,
        },
        "triggerer": {
            "capacity": 10_000,
            "job_heartbeat_sec": 2,
            "triggerer_health_check_threshold": 10,
            "max_trigger_to_select_per_loop": 1_000,
        },
        "dag_processor": {
            "dag_bundle_config_list": json.dumps(bundles),
            "refresh_interval": 1,
            "bundle_refresh_check_interval": 1,
            # A changed file is parsed at once (by its time of change); this is for the unchanged.
            "min_file_process_interval": 600,
            "file_parsing_sort_mode": "modified_time",
            "parsing_processes": min(4, max(1, os.cpu_count() or 1)),
            "print_stats_interval": 0,
            "dag_file_processor_timeout": 180,
        },
        "api": {
            "base_url": url,
            "host": "127.0.0.1",
            "port": state["port"],
            "workers": 1,
            "secret_key": state["secret_key"],
        },
        "api_auth": {"jwt_secret": state["jwt_secret"]},
        "logging": {
            "base_log_folder": folder.logs / "tasks",
            "dag_processor_child_process_log_directory": folder.logs / "dag_processor",
            "colored_console_log": False,
            # Three lines a second about bundles in which nothing has changed.
            "namespace_levels": "airflow.dag_processing.manager=WARNING",
        },
        "usage_data_collection": {"enabled": False},
    }


#: SQLite: how long a write waits for another process's (`sql_alchemy_connect_args`).
CONNECT = {"timeout": 30}


def _render(sections: dict[str, dict[str, object]]) -> str:
    lines = ["# Written by piecework at each start of the platform; changes are lost."]
    for section, options in sections.items():
        lines.append(f"\n[{section}]")
        # A percent sign would be read as the start of an interpolation.
        lines += [f"{name} = {value}".replace("%", "%%") for name, value in options.items()]
    return "\n".join(lines) + "\n"
