//! `pkcs11:` URIs (RFC 7512): which key of which token, and how this machine gets there.
//!
//! What stands before the `?` names the key: it is the canonical spelling, and what the catalog stores. What stands
//! behind it is this machine's way to the token, the module's path and the source of the PIN. Two machines may have two
//! ways to one key, so it is neither printed, stored nor compared. A PIN itself is refused in a URI, and no error about
//! one repeats a value of it.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::error::{Error, Result};

/// RFC 3986, section 2.3: what never needs to be encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `CK_TOKEN_INFO` has this much room for a label, a manufacturer, a model and a serial number.
const LABEL: usize = 32;
const MODEL: usize = 16;

/// A secret key of a PKCS#11 token.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pkcs11KeyUri {
    token: Option<String>,
    manufacturer: Option<String>,
    serial: Option<String>,
    model: Option<String>,
    slot: Option<u64>,
    object: Option<String>,
    id: Option<Vec<u8>>,
    module: Option<PathBuf>,
    pin: Option<PinSource>,
}

/// Where a PIN is. It is read when the token asks for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PinSource {
    /// As written: a relative path starts at the policy's folder.
    File(PathBuf),
    /// An environment variable, by its name.
    Variable(String),
}

impl Pkcs11KeyUri {
    /// The token's label, manufacturer, serial number and model, so far as the URI names them.
    pub(crate) fn token(&self) -> [Option<&str>; 4] {
        [&self.token, &self.manufacturer, &self.serial, &self.model].map(Option::as_deref)
    }

    pub fn slot(&self) -> Option<u64> {
        self.slot
    }

    /// The key's label.
    pub fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// The key's `CKA_ID`.
    pub fn id(&self) -> Option<&[u8]> {
        self.id.as_deref()
    }

    /// The module to load: an absolute path.
    pub fn module(&self) -> Option<&Path> {
        self.module.as_deref()
    }

    pub fn pin(&self) -> Option<&PinSource> {
        self.pin.as_ref()
    }

    /// A key as it was found on a token.
    #[cfg(feature = "pkcs11")]
    pub(crate) fn found(token: &str, serial: &str, (object, id): (Option<String>, Option<Vec<u8>>)) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let object = object.filter(|label| !label.is_empty());
        let id = id.filter(|id| !id.is_empty());
        Self { token: some(token), serial: some(serial), object, id, ..Self::default() }
    }

    pub(super) fn parse(rest: &str) -> Result<Self> {
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let mut key = Self::default();
        for (name, value) in attributes(path, ';')? {
            key.identify(name, value)?;
        }
        for (name, value) in attributes(query.unwrap_or_default(), '&')? {
            key.reach(name, value)?;
        }
        if key.token().iter().all(Option::is_none) && key.slot.is_none() {
            return Err(invalid("a token is needed, as `pkcs11:token=orders;object=root`"));
        }
        if key.object.is_none() && key.id.is_none() {
            return Err(invalid("a key is needed, by its label or its id, as `pkcs11:token=orders;object=root`"));
        }
        Ok(key)
    }

    /// An attribute that says which key it is.
    fn identify(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "token" => once(name, &mut self.token, text(name, value, LABEL)?),
            "manufacturer" => once(name, &mut self.manufacturer, text(name, value, LABEL)?),
            "serial" => once(name, &mut self.serial, text(name, value, MODEL)?),
            "model" => once(name, &mut self.model, text(name, value, MODEL)?),
            "slot-id" => {
                let number = value.parse().map_err(|_| invalid("`slot-id` is a decimal number"))?;
                once(name, &mut self.slot, number)
            }
            "object" => once(name, &mut self.object, text(name, value, usize::MAX)?),
            "id" => once(name, &mut self.id, decoded(name, value)?),
            "type" if value == "secret-key" => Ok(()),
            "type" => Err(invalid("the key is not of the type `secret-key`")),
            "pin-value" => Err(pin_value()),
            "module-path" | "pin-source" => Err(invalid(&format!("`{name}` stands behind a `?`"))),
            _ => Err(unknown(name)),
        }
    }

    /// An attribute that says how this machine gets to it.
    fn reach(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "module-path" => {
                let path = PathBuf::from(text(name, value, usize::MAX)?);
                if !path.is_absolute() {
                    return Err(invalid(
                        "`module-path` is an absolute path: another one would be looked for in folders",
                    ));
                }
                once(name, &mut self.module, path)
            }
            "pin-source" => once(name, &mut self.pin, PinSource::parse(&text(name, value, usize::MAX)?)?),
            "pin-value" => Err(pin_value()),
            "token" | "manufacturer" | "serial" | "model" | "slot-id" | "object" | "id" => {
                Err(invalid(&format!("`{name}` stands before the `?`")))
            }
            _ => Err(unknown(name)),
        }
    }

    /// The canonical spelling of what names the key.
    pub(crate) fn text(&self) -> String {
        let mut parts = Vec::new();
        let named = ["token", "manufacturer", "serial", "model"].into_iter().zip(self.token());
        let texts = named.chain([("object", self.object())]);
        for (name, value) in texts {
            if let Some(value) = value {
                parts.push(format!("{name}={}", utf8_percent_encode(value, ENCODED)));
            }
        }
        if let Some(slot) = self.slot {
            parts.push(format!("slot-id={slot}"));
        }
        if let Some(id) = &self.id {
            // Section 2.3: bytes, so every one of them is encoded.
            parts.push(format!("id={}", id.iter().map(|b| format!("%{b:02X}")).collect::<String>()));
        }
        format!("pkcs11:{}", parts.join(";"))
    }
}

impl PinSource {
    fn parse(value: &str) -> Result<Self> {
        if let Some(path) = value.strip_prefix("file:") {
            // RFC 8089: `file:/a`, `file:///a` and `file://localhost/a` are one file; another host's is not ours.
            let local = path.strip_prefix("//localhost").or_else(|| path.strip_prefix("//")).unwrap_or(path);
            let is_path = !local.is_empty() && (local == path || local.starts_with('/')) && !local.ends_with('/');
            return match is_path {
                true => Ok(Self::File(PathBuf::from(local))),
                false => Err(invalid("`pin-source` names no file, as `file:/etc/enfold/pin` or `file:pin`")),
            };
        }
        if let Some(name) = value.strip_prefix("env:") {
            let sound = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            return match sound {
                true => Ok(Self::Variable(name.to_owned())),
                false => Err(invalid("`pin-source` names no environment variable, as `env:HSM_PIN`")),
            };
        }
        Err(invalid("`pin-source` is neither a file nor a variable, as `file:/etc/enfold/pin` or `env:HSM_PIN`"))
    }
}

/// Pairs of a name and a value.
fn attributes(part: &str, separator: char) -> Result<Vec<(&str, &str)>> {
    let pairs = part.split(separator).filter(|_| !part.is_empty());
    pairs.map(|pair| pair.split_once('=').ok_or_else(|| invalid("an attribute is written `NAME=VALUE`"))).collect()
}

fn once<T>(name: &str, place: &mut Option<T>, value: T) -> Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(invalid(&format!("`{name}` stands there twice"))),
    }
}

fn text(name: &str, value: &str, longest: usize) -> Result<String> {
    let text = String::from_utf8(decoded(name, value)?).map_err(|_| invalid(&format!("`{name}` is not UTF-8")))?;
    if text.chars().any(char::is_control) {
        return Err(invalid(&format!("`{name}` holds control characters")));
    }
    if text.len() > longest {
        return Err(invalid(&format!("`{name}` is longer than the {longest} bytes that a token has for it")));
    }
    Ok(text)
}

fn decoded(name: &str, value: &str) -> Result<Vec<u8>> {
    if value.is_empty() {
        return Err(invalid(&format!("`{name}` is empty")));
    }
    let bytes: Vec<u8> = percent_decode_str(value).collect();
    // The decoder leaves a `%` that begins no sequence as it is: then there is another number of them.
    let sequences = value.matches('%').count();
    let whole = value.len() - bytes.len() == 2 * sequences;
    if !whole || !value.bytes().all(|b| b.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&b)) {
        return Err(invalid(&format!("`{name}` is not percent-encoded as it should be: `%20` for a space")));
    }
    Ok(bytes)
}

fn pin_value() -> Error {
    invalid("it holds a PIN (`pin-value`), and URIs are printed, stored and committed")
        .hint("keep the PIN in a file that nobody else can read (`pin-source=file:/etc/enfold/pin`) or in a variable")
        .hint("have the PIN changed if the URI was stored anywhere")
}

fn unknown(name: &str) -> Error {
    // The name is quoted only if it can be one: what stands there may be anything.
    let sound = !name.is_empty() && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let what = if sound { format!("`{name}`") } else { "one of the attributes".to_owned() };
    invalid(&format!(
        "{what} is not known: token, manufacturer, serial, model, slot-id, object, id and type are, and behind the `?` module-path and pin-source"
    ))
}

/// Nothing of the URI is shown: a PIN may stand anywhere in one that is wrong.
fn invalid(why: &str) -> Error {
    super::invalid("pkcs11:…", why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use crate::kms::{KeyUri, RootKey};

    fn key(uri: &str) -> Pkcs11KeyUri {
        match uri.parse::<KeyUri>().unwrap().root() {
            RootKey::Pkcs11(key) => key.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_is_named_by_its_token_and_its_label_or_id() {
        let found = key("pkcs11:token=The%20Software%20PKCS%2311%20Token;serial=2864bfee;object=root%3Bkey;id=%01%fF\
             ?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/enfold/pin");
        assert_eq!(found.token(), [Some("The Software PKCS#11 Token"), None, Some("2864bfee"), None]);
        assert_eq!((found.object(), found.id()), (Some("root;key"), Some(&[1, 0xff][..])));
        assert_eq!(found.module(), Some(Path::new("/usr/lib/softhsm/libsofthsm2.so")));
        assert_eq!(found.pin(), Some(&PinSource::File("/etc/enfold/pin".into())));
        assert_eq!(key("pkcs11:slot-id=7;id=a;type=secret-key").slot(), Some(7));
    }

    #[test]
    fn the_way_to_a_key_is_no_part_of_its_name() {
        let here: KeyUri = "pkcs11:object=root;token=a?module-path=/a.so&pin-source=file:pin".parse().unwrap();
        let there: KeyUri = "pkcs11:token=%61;object=ro%6ft;type=secret-key?module-path=/b.so".parse().unwrap();
        assert_eq!(here, there);
        assert_eq!(here.as_str(), "pkcs11:token=a;object=root");
        assert_ne!(here.root(), there.root(), "though one cannot be opened for the other");
        assert_eq!(here.to_string().parse::<KeyUri>().unwrap(), here);
        assert_eq!(key("pkcs11:token=a%20%C3%A9;id=ab").text(), "pkcs11:token=a%20%C3%A9;id=%61%62");
    }

    #[test]
    fn a_pin_comes_from_a_file_or_a_variable() {
        let pin = |source: &str| key(&format!("pkcs11:token=a;object=b?pin-source={source}")).pin().cloned();
        for path in ["file:/etc/pin", "file:///etc/pin", "file://localhost/etc/pin", "file:%2Fetc%2Fpin"] {
            assert_eq!(pin(path), Some(PinSource::File("/etc/pin".into())), "{path}");
        }
        assert_eq!(pin("file:pin"), Some(PinSource::File("pin".into())));
        assert_eq!(pin("env:HSM_PIN"), Some(PinSource::Variable("HSM_PIN".into())));
    }

    #[test]
    fn what_is_no_key_is_refused_and_nothing_of_it_is_repeated() {
        for bad in [
            "",
            "token=hunter2",
            "object=hunter2",
            "token=a;object=b;pin-value=hunter2",
            "token=a;object=b?pin-value=hunter2",
            "token=a;object=b?pin-valu=hunter2",
            "token=a;object=b?hunter2",
            "token=a;object=b?hunter2=",
            "token=a;token=hunter2;object=b",
            "token=a;object=b;object=hunter2",
            "token=a;object=",
            "token=hunter2hunter2hunter2hunter2hunter2;object=b",
            "token=a;object=%hunter2",
            "token=a;object=hunter2%4",
            "token=a;object=%ffhunter2",
            "token=a;object=%0ahunter2",
            "token=a;object=hunter2#",
            "token=a;object=hunter2é",
            "token=a;type=private;object=hunter2",
            "slot-id=hunter2;object=b",
            "slot-id=-1;object=hunter2",
            "token=a;object=b;module-path=/hunter2.so",
            "object=b?token=hunter2",
            "token=a;object=b?module-path=hunter2.so",
            "token=a;object=b?pin-source=hunter2",
            "token=a;object=b?pin-source=file:",
            "token=a;object=b?pin-source=file://hunter2/pin",
            "token=a;object=b?pin-source=|hunter2",
            "token=a;object=b?pin-source=env:hunter2-",
            "token=a;object=hunter2;library-version=1",
        ] {
            let error = format!("pkcs11:{bad}").parse::<KeyUri>().unwrap_err();
            assert_eq!(error.code(), Code::KmsUriInvalid, "{bad:?}");
            let all = format!("{error:?} {:?}", error.hints().collect::<Vec<_>>());
            assert!(!all.contains("hunter2"), "{all}");
        }
    }

    #[test]
    fn a_pin_in_the_uri_of_a_scheme_that_is_not_known_is_not_repeated_either() {
        let error = "pkcs-11:token=a?pin-value=hunter2".parse::<KeyUri>().unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        assert!(error.hints().any(|h| h.contains("`pkcs11`")));
    }
}
