# SPDX-License-Identifier: Apache-2.0
"""A server begins, answers, says who it is, and ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from harness.bundle import Bundle
from wherry_shim.proto import wherry_shim_v1_pb2 as pb

from .driver import PROGRAM, Server, refused

pytestmark = pytest.mark.requires("root")


def test_health_and_reflection(server: Server) -> None:
    assert server.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert server.health.Check(health_pb2.HealthCheckRequest(service="wherry.shim.v1.Shim")).status == health_pb2.HealthCheckResponse.SERVING
    database = ProtoReflectionDescriptorDatabase(server.channel)
    services = set(database.get_services())
    assert {"wherry.shim.v1.Shim", "wherry.shim.v1.Admin", "containerd.task.v3.Task", "grpc.health.v1.Health"} <= services
    assert database.FindFileContainingSymbol("wherry.shim.v1.Shim").package == "wherry.shim.v1"
    assert database.FindFileContainingSymbol("containerd.task.v3.Task").package == "containerd.task.v3"
