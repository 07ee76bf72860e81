"""A Kubernetes API on 127.0.0.1 with one virtual node: what the workflow and ``kubectl`` see of a cluster, without one.

``server`` speaks HTTP, ``access`` knows tokens and roles, ``objects`` keeps and validates what is posted, ``admission``
applies quotas, limits and pod security, ``controller`` turns Jobs into Pods, ``kubelet`` runs them as processes,
``image`` is what they run in, ``faults`` breaks things.
"""

from k8s_server.faults import Fault
from k8s_server.image import make_image
from k8s_server.server import KubernetesServer

__all__ = ["Fault", "KubernetesServer", "make_image"]
