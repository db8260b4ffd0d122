"""Sign outputs: C2PA manifests that say how a file was made, and show whether it was changed.

c2pa-python and cryptography (the extra `c2pa`) are imported when needed; nothing asks a network.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from talkingface import media
from talkingface.errors import BadRequest, OutputError
from talkingface.output_options import OutputOptions
from talkingface.types import PathLike
from talkingface.version import __version__

# Media types by FFmpeg's names of the containers.
TYPES = {
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "gif": "image/gif",
    "webp": "image/webp",
    "image2": "image/png",
}
_SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_GENERATED, _COMPOSITE = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
_SELF_SIGNED = "talkingface, self-signed: nobody vouches for who made this"
_SETTINGS = {
    "verify": {"verify_after_sign": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_ELLIPTIC = {256: "es256", 384: "es384", 521: "es512"}  # bits of the key: C2PA's name


class Signer:
    """Signs files with a certificate. Made by `signer_of`."""

    def __init__(self, key: Any, certificates: bytes, names: str) -> None:
        """certificates: the chain, PEM. names: what errors call them. Raises BadRequest."""
        self._names = names
        self._signer = _native_signer(key, certificates, names)

    def sign(
        self, path: Path, file: Path, container: str, tag: str | None, edited: bool = False
    ) -> None:
        """Add a signed manifest to a finished file, in place.

        path: what errors name. container: FFmpeg's name of it. tag: description of the file.
        edited: whether parts of it are of a real video. Raises OutputError, BadRequest.
        """
        import c2pa

        part = media.part_name(path)
        try:
            builder = c2pa.Builder(_manifest(tag, edited), c2pa.Context.from_dict(_SETTINGS))
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


def signer_of(options: OutputOptions) -> Signer | None:
    """Return the signer of outputs with these options; None where none is asked for.

    It is made once for a certificate. Raises BadRequest.
    """
    if not options.c2pa:
        return None
    if importlib.util.find_spec("c2pa") is None:
        raise BadRequest("c2pa needs c2pa-python: pip install 'talkingface[c2pa]'")
    certificate, key = options.sign_certificate, options.sign_key
    if certificate is None or key is None:
        return _own_signer()
    try:
        chain, private = Path(certificate).read_bytes(), Path(key).read_bytes()
    except OSError as error:
        raise _unreadable(certificate, key, error) from error
    return _signer(chain, private, str(certificate), str(key))


@lru_cache(maxsize=1)
def _own_signer() -> Signer:
    return Signer(*_self_signed(), "a generated certificate")


@lru_cache(maxsize=1)
def _signer(chain: bytes, private: bytes, certificate: str, key: str) -> Signer:
    return Signer(_private_key(chain, private, certificate, key), chain, certificate)


def _manifest(tag: str | None, edited: bool) -> dict[str, Any]:
    agent = {"name": "talkingface", "version": __version__}
    source = _SOURCES + (_COMPOSITE if edited else _GENERATED)
    action = {"action": "c2pa.created", "digitalSourceType": source, "softwareAgent": agent}
    if tag is not None:
        action["description"] = tag
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [action]}}
    return {"claim_generator_info": [agent], "assertions": [actions]}


@contextmanager
def signing(
    path: Path,
    file: Path,
    container: str,
    signer: Signer | None,
    tag: str | None,
    edited: bool = False,
) -> Iterator[None]:
    """Sign a file that the block writes, see `Signer.sign`; without a signer do nothing."""
    yield
    if signer is not None:
        signer.sign(path, file, container, tag, edited)


def _native_signer(key: Any, certificates: bytes, names: str) -> Any:
    """Return the signer of c2pa-python. Raises BadRequest for what C2PA forbids."""
    import c2pa
    from cryptography.hazmat.primitives import serialization

    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    info = c2pa.C2paSignerInfo(_algorithm(key), certificates, private, None)
    try:
        return c2pa.Signer.from_info(info)
    except c2pa.C2paError as error:
        raise BadRequest(
            f"{names}: cannot sign ({error}); give a certificate for signing C2PA"
        ) from error


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


def _private_key(chain: bytes, private: bytes, certificate: str, key: str) -> Any:
    """Read the private key of a chain of certificates that begins with its own, both PEM.

    Raises BadRequest.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        own = x509.load_pem_x509_certificates(chain)[0]
        found = serialization.load_pem_private_key(private, None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise _unreadable(certificate, key, error) from error
    if found.public_key() != own.public_key():
        raise BadRequest(f"{key}: is not the key of {certificate}: give the one it was made with")
    return found


def _unreadable(certificate: PathLike, key: PathLike, error: Exception) -> BadRequest:
    return BadRequest(
        f"{certificate}, {key}: cannot be read ({error}); give a certificate and its private key "
        "without a password, both as PEM"
    )


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
