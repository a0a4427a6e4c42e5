# SPDX-License-Identifier: Apache-2.0
"""The driver, the toolkit of the Ascend library, and HIXL: the checks of these for ``doctor``."""

from __future__ import annotations

import ipaddress
import os
import socket

from llm_datadist._native import cann, libraries
from llm_datadist._native.loader import NativeLibraryError

from ._doctor_host import why_no_listener
from ._findings import Finding, Machine, ok, warn
from ._probe import Tried

HOST_IP = "LLM_DATADIST_HOST_IP"
_A2_A3 = (
    "HCCS, within a node or super node, moves device memory to device memory only (host memory "
    "cannot be the remote side), RDMA every pair of device and host memory; for HCCS, device "
    "memory that a client registers must be of aclrtMalloc in huge pages, or start at a multiple "
    "of 2 MiB"
)
_950 = (
    "local_comm_res says what moves which memory and must not be empty; one-sided mode and "
    'transfer_backend "hixl" only, no link or unlink'
)
# How the names that aclrtGetSocName gives begin, what is sold with it, and docs/ascend.md about it.
_PRODUCTS = (
    ("Ascend910B", "Atlas A2", _A2_A3),
    ("Ascend910_93", "Atlas A3", _A2_A3),
    ("Ascend910_95", "Ascend 950", _950),
    ("Ascend950", "Ascend 950", _950),
)
# What HIXL reads the addresses of the devices' NICs from, and the port that each of these uses.
_NETWORK = ("etc/hccn.conf", "usr/local/Ascend/driver/tools/hccn_tool", "usr/bin/hccn_tool")
_DEVICE_PORT = 16666
# A network for documentation: the kernel looks for a route to it, nothing is sent.
_ANYWHERE = ("192.0.2.1", 9)


def driver(machine: Machine) -> Finding:
    """Which version of the driver is here."""
    name = cann.DRIVER_VERSION.lstrip("/")
    text = machine.read(name)
    if text is None:
        return ok("driver", f"there is no {machine.path(name)}", version=None)
    version = cann.version_in(text)
    return ok(
        "driver", f"{version or 'of unknown version'} ({machine.path(name)})", version=version
    )


def in_use(ascend: Tried, chosen: Tried) -> Tried:
    """Return what came of the Ascend library that clients have: LLM_DATADIST_BACKEND may name one.

    Args:
        ascend: what came of loading the one that is found.
        chosen: what came of the backend of this environment.
    """
    return chosen if chosen.path and chosen.name == "ascend" else ascend


def built_against(machine: Machine, ascend: Tried) -> Finding:
    """Which toolkit the Ascend library was built against, and whether that is the one here."""
    name = "built against"
    library = ascend.path or _refused()
    if not library:
        return ok(name, "there is no Ascend library", library=None)
    built = cann.built_against(library)
    if built is None:
        return ok(name, f"{library} does not say", library=library, root=None, version=None)
    data = {"library": library, "root": str(built.root), "version": built.version}
    again = "if that one is to be used, build the library again: llm-datadist build-ascend"
    for place in cann.present(machine.environ)[:1]:
        now = cann.Built(place.root, place.root.resolve(), cann.version(place.root))
        if (now.root, now.version) != (built.root, built.version):
            return warn(name, f"{built}; here is {now} ({place.reason})", again, **data)
        return ok(name, f"{built}, which is the toolkit here", **data)
    if not built.root.is_dir():
        return warn(name, f"{built}, which does not exist", again, **data)
    return ok(name, str(built), **data)


def _refused() -> str:
    """Return the path of an Ascend library that is there, whatever keeps it from being used."""
    try:
        return next(filter(os.path.exists, libraries.candidates("ascend")), "")
    except NativeLibraryError:
        return ""  # the library's own finding says so


def hixl(ascend: Tried) -> Finding:
    """Whether HIXL moves bytes here, and between which memories on this product."""
    if not ascend.path:
        return ok("hixl", "not used: no Ascend library loads here (see Libraries)", usable=False)
    soc = _soc(ascend.description)
    for beginning, product, rule in _PRODUCTS:
        if soc.startswith(beginning):
            text = f"carries everything; on {product} ({soc}), {rule}"
            return ok("hixl", text, usable=True, soc=soc, product=product)
    which = f"which product {soc} is, is not known" if soc else "the device does not tell its name"
    text = f"carries everything; {which}: on Atlas A2 and A3, {_A2_A3}; on Ascend 950, {_950}"
    return ok("hixl", text, usable=True, soc=soc, product=None)


def _soc(description: str) -> str:
    """Return the name of the chip in the Ascend library's description; "" if there is none."""
    parts = description.split("; ")
    named = len(parts) == 3 and parts[0] == "CANN" and parts[1] != "no name"
    return parts[1] if named else ""


def hcomm(machine: Machine) -> Finding:
    """Whether libhcomm.so lies where the runtime loads it for HIXL: beside libcann_hixl.so."""
    name = "hcomm"
    found = cann.present(machine.environ)
    if not found:
        return ok(name, "there is no toolkit", path=None)
    hixl_folder = next(iter(cann.folders_of(found[0].root, "cann_hixl")), found[0].root / "lib64")
    path = hixl_folder / "libhcomm.so"
    if path.is_file():
        return ok(name, f"{path}, which HIXL opens when it begins", path=str(path))
    return warn(
        name,
        f"{path} does not exist; HIXL opens it by its name when it begins",
        f"source {found[0].root}/set_env.sh before a client starts",
        path=None,
    )


def device_network(machine: Machine) -> Finding:
    """Whether HIXL can learn the addresses of the devices' own network."""
    name = "device network"
    if not cann.devices():
        return ok(name, "there is no device", source=None)
    port = (
        f"each NIC of a device uses its port {_DEVICE_PORT}, which must be free there, and is not "
        "seen from here; from CANN 9.1 on comm_resource_config.listen_port in "
        "global_resource_config names another one"
    )
    for source in _NETWORK:
        if os.path.exists(machine.path(source)):
            return ok(name, f"{machine.path(source)}; {port}", source=machine.path(source))
    both = " nor ".join(machine.path(source) for source in _NETWORK)
    return warn(
        name,
        f"neither {both} is here, one of which HIXL reads the devices' addresses from; {port}",
        "give the container /etc/hccn.conf of its host, or hccn_tool",
        source=None,
    )


def hixl_address(machine: Machine) -> Finding:
    """Which address peers will reach the device under, as far as one can tell without a client."""
    name = "hixl address"
    first = "the ip of the client's listen_ip_info; without one"
    host = machine.environ.get(HOST_IP, "")
    if not host:
        route = _address_of_default_route()
        found = f"by the default route {route}" if route else "there is no default route"
        return ok(
            name,
            f"{first}, the address from which the first peer is reached ({found}). {HOST_IP} is "
            "not set, so a client that listens at 0.0.0.0 or :: is refused",
            source="route",
            address=route or None,
        )
    first += ", or with 0.0.0.0 or ::,"
    why_not = _why_no_host_ip(host)
    data = {"source": HOST_IP, "address": host}
    if why_not:
        advice = f"set {HOST_IP} to an address of this host that peers reach, or unset it"
        return warn(name, f"{first} {HOST_IP}, which is {host}: {why_not}", advice, **data)
    return ok(name, f"{first} {host} ({HOST_IP})", **data)


def _why_no_host_ip(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "that is no IP address"
    if address.is_unspecified:
        return "HIXL needs one address, and that is all of them"
    refused = why_no_listener(host)
    if refused:
        return f"no port of it can be bound: {refused}"
    return "only this host reaches it, and HIXL discourages it" if address.is_loopback else ""


def _address_of_default_route() -> str:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_ANYWHERE)
            return str(probe.getsockname()[0])
    except OSError:
        return ""  # told as "no default route"
