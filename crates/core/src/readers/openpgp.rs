//! As much of OpenPGP (RFC 4880) as a message under a passphrase needs: packets, the passphrase's key, and the integrity-
//! protected data packet. Everything else is refused by name.

use std::borrow::Cow;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use miniz_oxide::inflate::{decompress_to_vec_with_limit, decompress_to_vec_zlib_with_limit};
use zeroize::Zeroizing;

use super::error::{Error, Result};
use super::primitives::{cfb, sha1};
use super::rails::MAX_INFLATED;
use super::{Plaintext, Secret};

/// Section 4.3.
mod tag {
    pub(super) const PASSPHRASE_KEY: u8 = 3;
    pub(super) const COMPRESSED: u8 = 8;
    pub(super) const UNPROTECTED: u8 = 9;
    pub(super) const LITERAL: u8 = 11;
    pub(super) const PROTECTED: u8 = 18;
    pub(super) const AEAD: u8 = 20;
}

/// Random bytes and the last two of them again, in front of the data.
const PREFIX: usize = 16 + 2;
/// The packet of the modification detection code, whose hash follows.
const MDC_HEAD: [u8; 2] = [0xd3, 0x14];
const MDC: usize = MDC_HEAD.len() + 20;

/// Whether a message begins with the key of a passphrase.
pub(super) fn begins_with_passphrase_key(message: &[u8]) -> bool {
    let [head, _, version, ..] = message else { return false };
    let is_key = matches!(head, 0xc3 | 0x8c);
    is_key && (4..=6).contains(version)
}

/// Opens a message of a passphrase's key and protected data.
pub(super) fn open(passphrase: &Secret, message: &[u8]) -> Result<Plaintext> {
    let (first, rest) = Packet::read(message)?;
    if first.tag != tag::PASSPHRASE_KEY {
        return Err(Error::Malformed);
    }
    let key = SessionKey::of(passphrase, &first.body)?;
    let (second, rest) = Packet::read(rest)?;
    match second.tag {
        tag::PROTECTED if rest.is_empty() => {}
        tag::PASSPHRASE_KEY => return Err(Error::Unsupported("more than one passphrase")),
        tag::UNPROTECTED => return Err(Error::Unsupported("no modification detection (`disable-mdc`)")),
        tag::AEAD => return Err(Error::Unsupported("AEAD packets")),
        _ => return Err(Error::Malformed),
    }
    let Some((1, sealed)) = second.body.split_first() else { return Err(Error::Unsupported("a newer data packet")) };
    literal(&key.open(sealed)?)
}

/// The key that seals the data.
struct SessionKey(Zeroizing<Vec<u8>>);

impl SessionKey {
    /// Section 5.3.
    fn of(passphrase: &Secret, packet: &[u8]) -> Result<Self> {
        let (version, rest) = packet.split_first().ok_or(Error::Malformed)?;
        if *version != 4 {
            return Err(Error::Unsupported("a newer key packet"));
        }
        let (algorithm, rest) = rest.split_first().ok_or(Error::Malformed)?;
        let (key, sealed) = stretched(passphrase, rest, key_len(*algorithm)?)?;
        if sealed.is_empty() {
            return Ok(Self(key));
        }
        // A session key of its own, after its algorithm. A wrong passphrase makes an algorithm of chance.
        let opened = cfb(&key, sealed)?;
        let (algorithm, session) = opened.split_first().ok_or(Error::Malformed)?;
        match key_len(*algorithm) {
            Ok(len) if len == session.len() => Ok(Self(Zeroizing::new(session.to_vec()))),
            _ => Err(Error::Refused),
        }
    }

    /// Section 5.13: what the detection code says is checked before anything else is looked at.
    fn open(&self, sealed: &[u8]) -> Result<Plaintext> {
        if sealed.len() < PREFIX + MDC {
            return Err(Error::Malformed);
        }
        let mut opened = cfb(&self.0, sealed)?;
        let at = opened.len() - MDC;
        let hashed = at + MDC_HEAD.len();
        let code = sha1(&opened[..hashed]);
        let head_and_code = [&MDC_HEAD[..], &code].concat();
        verify_slices_are_equal(&opened[at..], &head_and_code).map_err(|_| Error::Refused)?;
        opened.truncate(at);
        Ok(Zeroizing::new(opened[PREFIX..].to_vec()))
    }
}

/// Section 9.2: bytes of the key of a cipher.
fn key_len(algorithm: u8) -> Result<usize> {
    match algorithm {
        7 => Ok(16),
        8 => Ok(24),
        9 => Ok(32),
        1..=13 => Err(Error::Unsupported("a cipher other than AES")),
        _ => Err(Error::Malformed),
    }
}

/// Section 3.7: the passphrase's key, and what follows its specifier.
fn stretched<'a>(passphrase: &Secret, specifier: &'a [u8], len: usize) -> Result<(Zeroizing<Vec<u8>>, &'a [u8])> {
    let (mode, algorithm, rest) = match specifier {
        [mode, algorithm, rest @ ..] => (*mode, *algorithm, rest),
        _ => return Err(Error::Malformed),
    };
    let algorithm = match algorithm {
        2 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        8 => &digest::SHA256,
        9 => &digest::SHA384,
        10 => &digest::SHA512,
        1 | 3 | 11 => return Err(Error::Unsupported("a digest other than SHA-1 or SHA-2")),
        _ => return Err(Error::Malformed),
    };
    let (salt, count, rest) = match mode {
        0 => (&[][..], 0, rest),
        1 | 3 => {
            let (salt, rest) = rest.split_first_chunk::<8>().ok_or(Error::Malformed)?;
            let (count, rest) = match mode {
                1 => (0, rest),
                _ => rest.split_first().map(|(coded, rest)| (hashed_bytes(*coded), rest)).ok_or(Error::Malformed)?,
            };
            (&salt[..], count, rest)
        }
        _ => return Err(Error::Malformed),
    };
    let unit = Zeroizing::new([salt, passphrase].concat());
    let mut key = Zeroizing::new(Vec::with_capacity(len + algorithm.output_len()));
    let mut zeros = 0;
    while key.len() < len {
        let mut context = digest::Context::new(algorithm);
        context.update(&vec![0; zeros]);
        let mut left = count.max(unit.len());
        while left > 0 {
            let some = left.min(unit.len());
            context.update(&unit[..some]);
            left -= some;
        }
        key.extend_from_slice(context.finish().as_ref());
        zeros += 1;
    }
    key.truncate(len);
    Ok((key, rest))
}

/// Section 3.7.1.3: how many bytes are hashed.
fn hashed_bytes(coded: u8) -> usize {
    (16 + usize::from(coded & 15)) << ((coded >> 4) + 6)
}

/// The data of a literal packet (section 5.9), which may be in a compressed one (section 5.6).
fn literal(packets: &[u8]) -> Result<Plaintext> {
    let (packet, rest) = Packet::read(packets)?;
    let body = Zeroizing::new(packet.body.into_owned());
    if !rest.is_empty() {
        return Err(Error::Malformed);
    }
    match packet.tag {
        tag::LITERAL => {
            let name = usize::from(*body.get(1).ok_or(Error::Malformed)?);
            // Format, length of the name, name, time.
            let data = body.get(2 + name + 4..).ok_or(Error::Malformed)?;
            Ok(Zeroizing::new(data.to_vec()))
        }
        tag::COMPRESSED => {
            let (algorithm, compressed) = body.split_first().ok_or(Error::Malformed)?;
            let inflated = match algorithm {
                0 => Ok(compressed.to_vec()),
                1 => decompress_to_vec_with_limit(compressed, MAX_INFLATED).map_err(|_| Error::Malformed),
                2 => decompress_to_vec_zlib_with_limit(compressed, MAX_INFLATED).map_err(|_| Error::Malformed),
                _ => Err(Error::Unsupported("a compression other than ZIP or ZLIB")),
            };
            let inflated = Zeroizing::new(inflated?);
            // One layer: a packet of packets of packets would be a bomb.
            match Packet::read(&inflated)?.0.tag {
                tag::LITERAL => literal(&inflated),
                _ => Err(Error::Malformed),
            }
        }
        _ => Err(Error::Malformed),
    }
}

/// Section 4.2. A body in parts is put together.
struct Packet<'a> {
    tag: u8,
    body: Cow<'a, [u8]>,
}

impl<'a> Packet<'a> {
    /// The first packet, and what follows it.
    fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8])> {
        match bytes.split_first() {
            Some((head, rest)) if head & 0xc0 == 0xc0 => Self::new_format(head & 0x3f, rest),
            Some((head, rest)) if head & 0x80 != 0 => Self::old_format(*head, rest),
            _ => Err(Error::Malformed),
        }
    }

    fn old_format(head: u8, rest: &'a [u8]) -> Result<(Self, &'a [u8])> {
        let (len, rest) = match head & 3 {
            0 => big_endian::<1>(rest)?,
            1 => big_endian::<2>(rest)?,
            2 => big_endian::<4>(rest)?,
            _ => (rest.len(), rest),
        };
        let (body, rest) = rest.split_at_checked(len).ok_or(Error::Malformed)?;
        Ok((Self { tag: head >> 2 & 0x0f, body: Cow::Borrowed(body) }, rest))
    }

    fn new_format(tag: u8, mut rest: &'a [u8]) -> Result<(Self, &'a [u8])> {
        let mut parts = Vec::new();
        loop {
            let (is_last, len, after) = new_len(rest)?;
            let (body, after) = after.split_at_checked(len).ok_or(Error::Malformed)?;
            if is_last && parts.is_empty() {
                return Ok((Self { tag, body: Cow::Borrowed(body) }, after));
            }
            parts.extend_from_slice(body);
            if is_last {
                return Ok((Self { tag, body: Cow::Owned(parts) }, after));
            }
            rest = after;
        }
    }
}

/// Section 4.2.2: whether it is the last part, and its length.
fn new_len(bytes: &[u8]) -> Result<(bool, usize, &[u8])> {
    let (first, rest) = bytes.split_first().ok_or(Error::Malformed)?;
    Ok(match first {
        0..=191 => (true, usize::from(*first), rest),
        192..=223 => {
            let (second, rest) = rest.split_first().ok_or(Error::Malformed)?;
            (true, (usize::from(first - 192) << 8) + usize::from(*second) + 192, rest)
        }
        224..=254 => (false, 1 << (first & 0x1f), rest),
        255 => {
            let (len, rest) = big_endian::<4>(rest)?;
            (true, len, rest)
        }
    })
}

fn big_endian<const N: usize>(bytes: &[u8]) -> Result<(usize, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<N>().ok_or(Error::Malformed)?;
    Ok((len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest))
}
