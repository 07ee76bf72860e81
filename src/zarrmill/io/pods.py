"""What Snakemake's Kubernetes executor lacks, put around the Kubernetes client that it uses.

Version 0.5.1 of the executor posts Jobs and polls them; these things it does not survive or cannot do, each measured against the
stand-in of the tests (``tests/integration/test_pods.py`` shows every one with and without this module):

* It reads the log of a failed pod with ``previous``, which a pod that never restarts does not have: the run stops.
* A status that cannot be read once (connection refused, 429, 500) is never asked for again: the run hangs. So does a Job that
  was deleted; a submission that fails once ends the run.
* A second pod of one Job ends the run; a pod that ended before its container began is left behind.
* On 401 it loads a kubeconfig, which a pod does not have, and calls ``kubectl``, which the image does not have: the run ends.
* A 409 ends the run, also that of a quota which many Jobs reach at once; so does a quota of Jobs that is full.
* A driver that breaks off removes the Secret of its Jobs and leaves the Jobs: pods wait for it to their deadline, and hold quota.
* Jobs cannot be given a deadline, a priority, labels, an owner or a security context.
"""

import copy
import json
import os
import re
import shlex
import string
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zarrmill.errors import ConfigError, UnknownStateError
from zarrmill.io.pod_ends import EndedPod, PodEnds, usefulness
from zarrmill.io.process import tell
from zarrmill.io.session import SESSION, session

EXECUTOR = "snakemake-executor-plugin-kubernetes"
KNOWN_VERSION = "0.5.1"
TIMEOUT_S = (10, 60)
"""Connecting, reading: the client itself waits for ever."""
MAX_WAIT_S = 30
N_TRIES = 40
"""Of one request; with growing waits of at most ``MAX_WAIT_S`` about 18 minutes."""
N_LOG_TRIES, LOG_TIMEOUT_S = 2, (5, 20)
"""Of the log of a pod, for whose node the API waits."""
AUTH_WAITS_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, *[MAX_WAIT_S] * 8)
"""Waits before credentials are read again, about five minutes in all: a token may be renewed late."""
RETRIED = (429, 500, 502, 503, 504)
TARGETS = "zarrmill/targets"
"""Annotation of a Job: what it makes."""

type Post = Callable[[], Any]
"""Posts a Job of which the quota of the namespace had no place."""
type Body = dict[str, Any]
"""A Kubernetes object as JSON: Any, as its keys are the API's."""

_fenced = False


def fence_executor(environment: Mapping[str, str] = os.environ, ended: Callable[[EndedPod], None] | None = None) -> None:
    """Change the Kubernetes client of this process for Snakemake's executor; does nothing where that is not loaded.

    Args: environment: ``ZARRMILL_JOB_TEMPLATE`` is a YAML file that is merged into every Job; ``$NAME`` in it is replaced.
        ended: told of each Job that failed, before it is tried again; an error of ours that it raises is shown and left.
    Raises: ConfigError: the executor has another version than this was written for, or the template cannot be used.
    """
    global _fenced
    if _fenced or EXECUTOR.replace("-", "_") not in sys.modules:
        return
    found = version(EXECUTOR)
    if found != KNOWN_VERSION:
        text = f"{EXECUTOR}: found {found}, expected {KNOWN_VERSION}, which zarrmill.io.pods mends; install that version"
        raise ConfigError(text, kind="usage")
    template = read_template(environment)
    from kubernetes import client

    ends, waiting = PodEnds(ended), dict[str, Post]()
    _patient(client)
    _authorised(client)
    _reads(client, ends, waiting)
    _writes(client, template, ends, waiting)
    _fenced = True


def read_template(environment: Mapping[str, str]) -> Body:
    """Return what every Job gets, empty without ``ZARRMILL_JOB_TEMPLATE``.

    Raises: ConfigError: the file is missing, is not a mapping, or names a variable that is not set.
    """
    import yaml

    path = environment.get("ZARRMILL_JOB_TEMPLATE")
    if not path:
        return {}
    try:
        template = _substituted(yaml.safe_load(Path(path).read_text()), environment)
    except KeyError as error:
        raise ConfigError(f"{path}: variable {error} is not set; set it in the driver's environment", kind="usage") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be used as a Job template: {' '.join(str(error).split())}", kind="usage") from None
    if not isinstance(template, dict):
        raise ConfigError(f"{path}: expected keys of a Job, found {type(template).__name__}", kind="usage")
    return template


def merged(body: Any, more: Any) -> Any:
    """Return ``body`` with ``more``: mappings are merged, lists joined (containers by place), anything else is replaced."""
    if isinstance(body, dict) and isinstance(more, dict):
        return {**body, **{key: _merged_key(key, body[key], value) if key in body else value for key, value in more.items()}}
    return more


def targets_of(job: Body) -> list[str]:
    """Return what the Snakemake command in a Job makes, as ``rule:wildcard=value,...``."""
    words = shlex.split(job["spec"]["template"]["spec"]["containers"][0]["args"][-1])
    if "--target-jobs" not in words:
        return []
    found = words[words.index("--target-jobs") + 1 :]
    return found[: next((i for i, word in enumerate(found) if word.startswith("--")), len(found))]


def _substituted(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _substituted(inner, environment) for key, inner in value.items()}
    if isinstance(value, list):
        return [_substituted(inner, environment) for inner in value]
    return string.Template(value).substitute(environment) if isinstance(value, str) else value


def _merged_key(key: str, body: Any, more: Any) -> Any:
    if key == "containers":
        return [merged(body[0], more[0])]
    return body + more if isinstance(body, list) and isinstance(more, list) else merged(body, more)


def _patient(client: Any) -> None:
    """Give every request a time limit, and repeat it while the API is away or asks to wait."""
    import urllib3

    retry = urllib3.Retry(
        total=N_TRIES,
        allowed_methods=None,  # any: names are chosen here, so a repeated POST meets its own 409
        status_forcelist=RETRIED,
        raise_on_status=False,
        backoff_factor=0.25,
        backoff_max=MAX_WAIT_S,
        backoff_jitter=1.0,
        retry_after_max=MAX_WAIT_S,
    )
    rest = client.rest.RESTClientObject
    start, request = rest.__init__, rest.request

    @wraps(start)
    def patient_start(self: Any, configuration: Any, *args: Any, **kwargs: Any) -> None:
        configuration.retries = configuration.retries or retry
        start(self, configuration, *args, **kwargs)

    @wraps(request)
    def patient_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["_request_timeout"] = kwargs.get("_request_timeout") or TIMEOUT_S
        return request(self, *args, **kwargs)

    rest.__init__, rest.request = patient_start, patient_request


def _authorised(client: Any) -> None:
    """Read the credentials again when the API refuses them (401), and repeat the request: tokens are renewed in their files."""
    from kubernetes.config import ConfigException
    from yaml import YAMLError

    call = client.ApiClient.call_api

    @wraps(call)
    def authorised(self: Any, *args: Any, **kwargs: Any) -> Any:
        for wait_s in (*AUTH_WAITS_S, None):
            try:
                return call(self, *args, **kwargs)
            except client.ApiException as error:
                if error.status != 401:
                    raise
            if wait_s is not None:
                time.sleep(wait_s)
                with suppress(ConfigException, YAMLError):  # the file is being written
                    self.configuration = _credentials(client)
                    self.rest_client = client.rest.RESTClientObject(self.configuration)
        raise _lost(f"401 for {sum(AUTH_WAITS_S):.0f} s, credentials were read again each time")

    client.ApiClient.call_api = authorised


def _impatient(client: Any, api: Any) -> Any:
    """Return a client for what is good to know: a node that does not answer for its pod's log must not hold up all others."""
    import urllib3

    configuration = copy.copy(api.configuration)
    configuration.retries = urllib3.Retry(total=N_LOG_TRIES, status_forcelist=RETRIED, raise_on_status=False, retry_after_max=1)
    return client.ApiClient(configuration)


def _lost(found: str) -> UnknownStateError:
    """Return what ends the run: after an error of the client the executor drops the job it asked about, and waits for ever."""
    return UnknownStateError(f"Kubernetes API: {found}; start another driver", kind="outage")


def _credentials(client: Any) -> Any:
    """Return the client's configuration as it is on this machine now, looked for in the executor's order."""
    from kubernetes import config

    found = client.Configuration()
    try:
        config.load_kube_config(client_configuration=found)
    except config.ConfigException:
        config.load_incluster_config(client_configuration=found)
    return found


def _reads(client: Any, ends: PodEnds, waiting: dict[str, Post]) -> None:
    import urllib3

    core, batch = client.CoreV1Api, client.BatchV1Api
    list_pods, read_log, read_status = core.list_namespaced_pod, core.read_namespaced_pod_log, batch.read_namespaced_job_status

    @wraps(list_pods)
    def one_pod(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = list_pods(self, *args, **kwargs)
        found.items = sorted(found.items, key=usefulness)[-1:]
        ends.keep_pods(client, kwargs.get("label_selector", ""), found.items)
        return found

    @wraps(read_log)
    def any_log(self: Any, name: str, *args: Any, **kwargs: Any) -> str:
        kwargs.pop("previous", None)
        kwargs["_request_timeout"] = LOG_TIMEOUT_S
        try:
            with _impatient(client, self.api_client) as api:
                return ends.with_log(name, str(read_log(core(api), name, *args, **kwargs)), "")
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            return ends.with_log(name, None, f"(no log: {getattr(error, 'reason', None) or type(error).__name__})")

    # None is what the executor takes for a Job that somebody deleted: it fails, and is tried again.
    lenient = _absent_is_none(client, read_status)

    @wraps(read_status)
    def any_status(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            if not _is_posted(client, waiting, name):
                return client.V1Job(status=client.V1JobStatus())  # neither failed nor succeeded
            found = lenient(self, name, *args, **kwargs)
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            reason = " ".join(f"{getattr(error, 'status', None) or type(error).__name__} {getattr(error, 'reason', '')}".split())
            raise _lost(f"status of {name}: {reason}") from error
        ends.keep_status(name, found)
        return found

    core.list_namespaced_pod, core.read_namespaced_pod_log = one_pod, any_log
    batch.read_namespaced_job_status = any_status


def _writes(client: Any, template: Body, ends: PodEnds, waiting: dict[str, Post]) -> None:
    core, batch = client.CoreV1Api, client.BatchV1Api
    post_job, post_secret = batch.create_namespaced_job, core.create_namespaced_secret

    @wraps(post_job)
    def whole_job(self: Any, namespace: str, body: Any, **kwargs: Any) -> Any:
        job: Body = merged(self.api_client.sanitize_for_serialization(body), template)
        targets = targets_of(job)
        ends.targets[job["metadata"]["name"]] = tuple(targets)
        job["metadata"].setdefault("annotations", {})[TARGETS] = " ".join(targets)
        container = job["spec"]["template"]["spec"]["containers"][0]
        container["env"] = [*(container.get("env") or ()), {"name": SESSION, "value": session()}]
        image = container["image"]
        if not re.search(r"@sha256:[0-9a-f]{64}$", image):
            # The executor shows this class in one line, any other with its traceback.
            text = f"container image {image}: expected NAME@sha256:..., a tag may move during a run; set ZARRMILL_IMAGE"
            raise client.ApiException(status=0, reason=text)
        post = partial(_once, client, post_job, self, namespace, job, **kwargs)
        try:
            return post()
        except client.ApiException as error:
            if not _is_over_quota(error):
                raise
            if not waiting:
                tell(f"Kubernetes: Jobs wait for a place in the namespace: {_message(error)}")
        waiting[job["metadata"]["name"]] = post
        return job

    @wraps(post_secret)
    def owned_secret(self: Any, namespace: str, body: Any, **kwargs: Any) -> Any:
        secret: Body = self.api_client.sanitize_for_serialization(body)
        secret["metadata"] = merged(secret["metadata"], template.get("metadata", {}))
        return _once(client, post_secret, self, namespace, secret, **kwargs)

    batch.create_namespaced_job, core.create_namespaced_secret = whole_job, owned_secret
    for api, name in ((core, "delete_namespaced_pod"), (core, "delete_namespaced_secret"), (batch, "delete_namespaced_job")):
        setattr(api, name, _absent_is_none(client, getattr(api, name)))
    drop_secret = core.delete_namespaced_secret

    @wraps(drop_secret)
    def jobs_first(self: Any, name: str, namespace: str, **kwargs: Any) -> Any:
        for job in list(ends.targets):
            batch(self.api_client).delete_namespaced_job(job, namespace, propagation_policy="Background")
        return drop_secret(self, name, namespace, **kwargs)

    core.delete_namespaced_secret = jobs_first


def _once(client: Any, post: Callable[..., Any], api: Any, namespace: str, body: Body, **kwargs: Any) -> Any:
    """Post an object with a name of ours; that it is there already means that an earlier try got through.

    Any other 409 is a conflict on the server's side, such as a quota that was counted twice at once: it passes.
    """
    for n_tried in range(N_TRIES):
        try:
            return post(api, namespace, body, **kwargs)
        except client.ApiException as error:
            if error.status != 409 or (n_tried == N_TRIES - 1 and not _already_exists(error)):
                raise
            if _already_exists(error):
                return body
        time.sleep(min(0.25 * 2**n_tried, MAX_WAIT_S))
    raise AssertionError("the last try returns or raises")


def _is_posted(client: Any, waiting: dict[str, Post], job: str) -> bool:
    """Return whether a Job is in the cluster; one that a quota kept out is posted again."""
    try:
        if job in waiting:
            waiting[job]()
            del waiting[job]
    except client.ApiException as error:
        if not _is_over_quota(error):
            raise
    return job not in waiting


def _is_over_quota(error: Any) -> bool:
    return bool(error.status == 403 and "exceeded quota" in _message(error))


def _message(error: Any) -> str:
    return str(_answer(error).get("message", ""))


def _already_exists(error: Any) -> bool:
    return bool(_answer(error).get("reason") == "AlreadyExists")


def _answer(error: Any) -> Body:
    try:
        found = json.loads(error.body)
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _absent_is_none(client: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def lenient(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except client.ApiException as error:
            if error.status == 404:
                return None
            raise

    return lenient
