"""Certificates of a CA that is made for the tests, and contexts with them."""

from __future__ import annotations

import datetime as dt
import functools
import ssl

import trustme


@functools.cache
def ca(name="theirs"):
    """A certificate authority; another one for another name."""
    return trustme.CA(organization_name=name)


@functools.cache
def certificate(*names, authority="theirs", expired=False):
    """One for these names; it and its key are made once."""
    not_after = dt.datetime(2001, 1, 1, tzinfo=dt.UTC) if expired else None
    return ca(authority).issue_cert(*names, not_after=not_after)


def server_context(*names, client_ca=None, **options):
    """For servers. With a ``client_ca`` it asks clients for a certificate of that."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate(*(names or ("localhost", "127.0.0.1")), **options).configure_cert(context)
    if client_ca is not None:
        ca(client_ca).configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(*names, authority="theirs", **options):
    """For clients; those that give a name show a certificate."""
    context = ssl.create_default_context()
    ca(authority).configure_trust(context)
    if names:
        certificate(*names, **options).configure_cert(context)
    return context


def name_in(peer_certificate):
    """The one alternative name in what ``getpeercert()`` gives."""
    ((_, name),) = peer_certificate["subjectAltName"]
    return name
