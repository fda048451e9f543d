"""TLS 1.3 over one socket, with writes that never wait.

`trio.SSLStream` makes every write a task's wait. Here a write encrypts and hands to the socket what it takes
at once, without a task switch; the little that it does not take is kept and sent by whoever waits in
`drain`. The certificate says nothing about who its owner is: the handshake above binds an identity to it.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import socket
import ssl
import tempfile
from dataclasses import dataclass

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from p2pinfer.errors import HandshakeError, PeerUnreachable

__all__ = ["READ_SIZE_BYTES", "TlsContexts", "TlsStream", "make_tls_contexts"]

READ_SIZE_BYTES = 1 << 16
"""Bytes asked of the socket at a time: four full TLS records."""
_CIPHER = "TLS_AES_256_GCM_SHA384"
_UNSENT_SIZE_BYTES = 1 << 16
"""What the kernel may hold unsent before it refuses more: small, so that urgent frames overtake."""
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", None)


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """Both roles' settings and the binding of this process' own certificate."""

    client: ssl.SSLContext
    server: ssl.SSLContext
    binding: bytes
    """SHA-256 of the server certificate (RFC 5929, tls-server-end-point)."""


def make_tls_contexts() -> TlsContexts:
    """Draw a key and certificate for this process alone; they are never stored.

    The ssl module reads a certificate from a file only, so there is one for a moment, readable by its owner.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p2pinfer")])
    # Dates carry no meaning here (nobody checks them) and a fixed span tells nobody when the peer started.
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2099, 1, 1))
        .sign(key, hashes.SHA256())
    )
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.num_tickets = 0
    for context in (client, server):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    descriptor, path = tempfile.mkstemp(prefix="p2pinfer-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate.public_bytes(serialization.Encoding.PEM))
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        server.load_cert_chain(path)
    finally:
        os.unlink(path)
    return TlsContexts(
        client, server, hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
    )


class TlsStream:
    """One TLS connection over a connected, non-blocking socket that it owns.

    Writes may come from any task; `receive` from one, `drain` from one.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        sock.setblocking(False)
        if sock.family != getattr(socket, "AF_UNIX", None):
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if _TCP_NOTSENT_LOWAT is not None:
                    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_SIZE_BYTES)
            except OSError:
                pass  # the other end has reset it already, which macOS says here: the handshake will say so
        self._socket = sock
        self._arriving = ssl.MemoryBIO()
        self._leaving = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arriving, self._leaving, server_side=server_side)
        self._unsent = b""
        self._is_closed = False

    async def handshake(self) -> None:
        """Agree on keys.

        Raises:
            HandshakeError: The other end speaks no TLS 1.3 with the cipher required, or no TLS at all.
            PeerUnreachable: The connection broke.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send_handshake()
                await self._fill()
            except ssl.SSLEOFError as error:
                raise PeerUnreachable("the other end closed during the TLS handshake") from error
            except ssl.SSLError as error:
                await self._send_handshake()  # the alert: it tells the other end why
                raise HandshakeError(f"the TLS handshake failed: {error.reason or error}") from error
            else:
                break
        await self._send_handshake()
        cipher = self._tls.cipher()
        if cipher is None or cipher[0] != _CIPHER or self._tls.version() != "TLSv1.3":
            raise HandshakeError(f"the other end chose {cipher and cipher[0]}; {_CIPHER} is required")

    def peer_binding(self) -> bytes:
        """SHA-256 of the certificate that the other end showed (asked by the client).

        Raises:
            HandshakeError: It showed none.
        """
        certificate = self._tls.getpeercert(binary_form=True)
        if certificate is None:
            raise HandshakeError("the other end showed no certificate")
        return hashlib.sha256(certificate).digest()

    @property
    def is_idle(self) -> bool:
        """Whether everything written so far is with the kernel."""
        return not self._unsent

    def write_nowait(self, data: bytes) -> None:
        """Encrypt and send; what the socket does not take now is kept for `drain`.

        Raises:
            PeerUnreachable: The connection is broken.
        """
        if self._is_closed:
            raise PeerUnreachable("the connection is closed")
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise PeerUnreachable(f"the connection broke: {error.reason or error}") from error
        self._flush()

    async def drain(self) -> None:
        """Wait until everything written so far is with the kernel.

        Raises:
            PeerUnreachable: The connection is broken.
        """
        while self._unsent:
            try:
                await trio.lowlevel.wait_writable(self._socket)
            except trio.ClosedResourceError as error:
                raise PeerUnreachable("the connection is closed") from error
            self._flush()

    async def receive(self) -> bytes:
        """Return what has arrived, at least one byte; nothing at the end of the connection.

        Raises:
            PeerUnreachable: The connection is broken.
        """
        while True:
            # Asking first spares an exception for each wait, which costs as much as the read itself.
            is_empty = not self._arriving.pending and not self._tls.pending()
            if is_empty and not await self._fill():
                return b""
            try:
                data = self._tls.read(READ_SIZE_BYTES)
            except ssl.SSLWantReadError:
                if not await self._fill():
                    return b""
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise PeerUnreachable(f"the connection broke: {error.reason or error}") from error
            if self._leaving.pending:
                self._flush()  # an answer of TLS itself, such as new keys
            return data

    def close(self) -> None:
        """Say goodbye to TLS, if the socket takes it at once, and close. Wakes whoever waits."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # it wants the other end's goodbye too, which nobody waits for
        try:
            self._flush()
        except PeerUnreachable:
            pass  # it is being closed anyway
        self._unsent = b""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()

    def _flush(self) -> None:
        data = self._unsent + self._leaving.read() if self._unsent else self._leaving.read()
        try:
            sent = self._socket.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise PeerUnreachable(f"the connection broke: {error.strerror}") from error
        self._unsent = data[sent:] if sent < len(data) else b""

    async def _send_handshake(self) -> None:
        self._flush()
        await self.drain()

    async def _fill(self) -> bool:
        """Wait for bytes from the socket; False at its end."""
        if self._is_closed:
            raise PeerUnreachable("the connection is closed")
        while True:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                data = self._socket.recv(READ_SIZE_BYTES)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError as error:
                raise PeerUnreachable("the connection is closed") from error
            except OSError as error:
                raise PeerUnreachable(f"the connection broke: {error.strerror}") from error
            break
        if not data:
            self._arriving.write_eof()
            return False
        self._arriving.write(data)
        return True
