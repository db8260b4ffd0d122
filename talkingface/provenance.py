"""Sign outputs: C2PA manifests that say how a file was made, and show whether it was changed.

c2pa-python and cryptography (the extra `c2pa`) are imported when needed; nothing asks a network.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from talkingface import media
from talkingface.errors import BadRequest, OutputError
from talkingface.output_options import OutputOptions
from talkingface.version import __version__

# Media types by FFmpeg's names of the containers.
TYPES = {
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "gif": "image/gif",
    "webp": "image/webp",
    "image2": "image/png",
}
_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_SELF_SIGNED = "talkingface, self-signed: nobody vouches for who made this"
_SETTINGS = {
    "verify": {"verify_after_sign": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_ELLIPTIC = {256: "es256", 384: "es384", 521: "es512"}  # bits of the key: C2PA's name


class Signer:
    """Signs files with a certificate, or with one that is made for this signer alone."""

    def __init__(self, options: OutputOptions, tag: str | None) -> None:
        """tag: description of the files. Raises BadRequest."""
        if importlib.util.find_spec("c2pa") is None:
            raise BadRequest("c2pa needs c2pa-python: pip install 'talkingface[c2pa]'")
        self._tag = tag
        if options.sign_certificate is None or options.sign_key is None:
            self._key, self._certificates = _self_signed()
        else:
            self._key, self._certificates = _read(options.sign_certificate, options.sign_key)
        self._names = options.sign_certificate or "a generated certificate"
        self._signer = self._new_signer()  # what C2PA forbids is refused before the work

    def sign(self, path: Path, file: Path, container: str) -> None:
        """Add a signed manifest to a finished file, in place.

        path: what errors name. container: FFmpeg's name of it. Raises OutputError, BadRequest.
        """
        import c2pa

        part = media.part_name(path)
        try:
            builder = c2pa.Builder(self._manifest(), c2pa.Context.from_dict(_SETTINGS))
            with media.writing(path, OSError):
                with file.open("rb") as source, part.open("w+b") as signed:
                    builder.sign(self._signer, TYPES[container], source, signed)
                os.replace(part, file)
        except c2pa.C2paError as error:
            raise OutputError(
                f"{path}: cannot be signed with {self._names} ({error}); give another certificate"
            ) from error
        finally:
            part.unlink(missing_ok=True)

    def _manifest(self) -> dict[str, Any]:
        agent = {"name": "talkingface", "version": __version__}
        action = {"action": "c2pa.created", "digitalSourceType": _SOURCE, "softwareAgent": agent}
        if self._tag is not None:
            action["description"] = self._tag
        actions = {"label": "c2pa.actions.v2", "data": {"actions": [action]}}
        return {"claim_generator_info": [agent], "assertions": [actions]}

    def _new_signer(self) -> Any:
        import c2pa
        from cryptography.hazmat.primitives import serialization

        private = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        info = c2pa.C2paSignerInfo(_algorithm(self._key), self._certificates, private, None)
        try:
            return c2pa.Signer.from_info(info)
        except c2pa.C2paError as error:
            raise BadRequest(
                f"{self._names}: cannot sign ({error}); give a certificate for signing C2PA"
            ) from error


@contextmanager
def signing(path: Path, file: Path, container: str, signer: Signer | None) -> Iterator[None]:
    """Sign a file that the block writes, see `Signer.sign`; without a signer do nothing."""
    yield
    if signer is not None:
        signer.sign(path, file, container)


def _algorithm(key: Any) -> str:
    """Return C2PA's name of the algorithm of a private key. Raises BadRequest."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size in _ELLIPTIC:
        return _ELLIPTIC[key.key_size]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise BadRequest("the key to sign with is of no kind that C2PA has: give EC, Ed25519 or RSA")


def _read(certificate: Any, key: Any) -> tuple[Any, bytes]:
    """Read a private key, and the chain of certificates that begins with its own, both PEM.

    Raises BadRequest.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        chain = Path(certificate).read_bytes()
        own = x509.load_pem_x509_certificates(chain)[0]
        private = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise BadRequest(
            f"{certificate}, {key}: cannot be read ({error}); give a certificate and its private "
            "key without a password, both as PEM"
        ) from error
    if private.public_key() != own.public_key():
        raise BadRequest(f"{key}: is not the key of {certificate}: give the one it was made with")
    return private, chain


def _self_signed() -> tuple[Any, bytes]:
    """Make a key and its certificate, which says that nobody vouches for it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    kinds = (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
    name = x509.Name([x509.NameAttribute(kind, _SELF_SIGNED) for kind in kinds])
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    public = key.public_key()
    usage = x509.KeyUsage(True, *[False] * 8)
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
    certificate = (
        x509.CertificateBuilder(name, name, public, x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + 3650 * day)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(purpose, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate.public_bytes(serialization.Encoding.PEM)
