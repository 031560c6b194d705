//! PKCS#11 tokens, made in a folder below `target` through PKCS#11 itself: SoftHSM's, and kryoptic's in the module that
//! `scripts/deps.sh` builds of `tests/pkcs11-token`, which a test can tell to answer as hardware does.
//!
//! A module keeps its state in the process, and reads where its tokens are from an environment variable. So each process
//! of tests has a folder for each module, in which every token has a label of its own; the next process removes it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use rustix::fs::{CWD, FileType, Mode};

/// Of the user of every token.
pub const PIN: &str = "49-fortunate-pins";
const SECURITY_OFFICER: &str = "so-49-fortunate-pins";

/// Tokens of kryoptic that one process may make: its slots stand in its configuration.
const SLOTS: u64 = 64;
/// The slot whose token has no AES-GCM.
const WITHOUT_GCM: u64 = 99;

/// Where `scripts/deps.sh` builds the second token.
const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/pkcs11-token");

static SOFTHSM: LazyLock<Library> =
    LazyLock::new(|| Library::new("softhsm", "SOFTHSM2_CONF", Path::new("/usr/lib/softhsm/libsofthsm2.so")));
static KRYOPTIC: LazyLock<Library> = LazyLock::new(|| {
    Library::new("kryoptic", "KRYOPTIC_CONF", &Path::new(BUILT).join("release/libenfold_test_token.so"))
});

/// A module with the folder of its tokens.
struct Library {
    module: PathBuf,
    functions: Pkcs11,
    variable: &'static str,
    folder: PathBuf,
    /// How many there have been.
    tokens: Mutex<usize>,
}

/// A token of its own for one test.
pub struct Token {
    library: &'static Library,
    slot: Slot,
    label: String,
}

/// As long as it lives, calls to the token wait.
pub struct Held {
    file: PathBuf,
}

impl Library {
    fn new(name: &str, variable: &'static str, module: &Path) -> Self {
        let module = module.canonicalize().unwrap_or_else(|e| panic!("no {}: run `make deps` ({e})", module.display()));
        let folder = make_room(Path::new(BUILT), name);
        let library = Self {
            functions: Pkcs11::new(&module).expect("a PKCS#11 module"),
            module,
            variable,
            folder,
            tokens: Mutex::default(),
        };
        library.write_configuration();
        #[allow(unsafe_code, reason = "the modules read it with getenv, and there is no other way to tell them")]
        // SAFETY: nobody else calls into C here who reads the environment: whoever uses a module came through this
        // first, and Rust's own readers take a lock.
        unsafe {
            std::env::set_var(variable, library.configuration());
        };
        library.begin();
        library
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("module.conf")
    }

    fn write_configuration(&self) {
        fs::create_dir_all(self.folder.join("tokens")).expect("a folder for tokens");
        let folder = self.folder.display();
        let mut text = String::new();
        match self.variable {
            "SOFTHSM2_CONF" => text += &format!("directories.tokendir = {folder}/tokens\nlog.level = ERROR\n"),
            _ => (1..=SLOTS).chain([WITHOUT_GCM]).for_each(|slot| {
                text += &format!(
                    "[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = \"{folder}/tokens/{slot}.sql\"\n"
                );
                if slot == WITHOUT_GCM {
                    text += "mechanisms = [\"DENY\", \"CKM_AES_GCM\"]\n";
                }
            }),
        }
        fs::write(self.configuration(), text).expect("a configuration");
    }

    fn begin(&self) {
        match self.functions.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn token(&'static self, wanted: impl Fn(u64) -> bool) -> Token {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |slot: &Slot| {
            wanted(slot.id()) && self.functions.get_token_info(*slot).is_ok_and(|token| !token.token_initialized())
        };
        let slot = self.functions.get_all_slots().expect("slots").into_iter().find(is_free).expect("a free slot");
        *tokens += 1;
        let label = format!("orders {tokens}");
        self.functions.init_token(slot, &pin(SECURITY_OFFICER), &label).expect("a token");
        let token = Token { library: self, slot, label };
        let session = self.functions.open_rw_session(slot).expect("a session");
        session.login(UserType::So, Some(&pin(SECURITY_OFFICER))).expect("its officer");
        session.init_pin(&pin(PIN)).expect("a PIN");
        session.logout().expect("signed out");
        token.write_pin(PIN);
        token
    }
}

impl Token {
    pub fn softhsm() -> Self {
        SOFTHSM.token(|_| true)
    }

    pub fn kryoptic() -> Self {
        KRYOPTIC.token(|slot| slot != WITHOUT_GCM)
    }

    /// One that lacks AES-GCM. There is one in a process.
    pub fn kryoptic_without_gcm() -> Self {
        KRYOPTIC.token(|slot| slot == WITHOUT_GCM)
    }

    /// Makes a key as it should be: AES, 256 bits, made in the token and never to leave it.
    pub fn key(&self, label: &str) {
        self.key_with(label, &[]);
    }

    /// As [`Self::key`], with some attributes otherwise.
    pub fn key_with(&self, label: &str, otherwise: &[Attribute]) {
        let mut template = vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::ValueLen(32.into()),
            Attribute::Label(label.into()),
            Attribute::Id(label.into()),
        ];
        for attribute in otherwise {
            template.retain(|a| a.attribute_type() != attribute.attribute_type());
            template.push(attribute.clone());
        }
        self.session().generate_key(&Mechanism::AesKeyGen, &template).expect("a key");
    }

    pub fn destroy(&self, label: &str) {
        let session = self.session();
        session.destroy_object(find(&session, label)).expect("destroyed");
    }

    pub fn set(&self, label: &str, attribute: Attribute) {
        let session = self.session();
        session.update_attributes(find(&session, label), &[attribute]).expect("changed");
    }

    /// AES-GCM under a key of the token, for whatever purpose.
    pub fn encrypt(&self, label: &str, mut nonce: [u8; 12], associated: &[u8], plain: &[u8]) -> Vec<u8> {
        let session = self.session();
        let parameters = GcmParams::new(&mut nonce, associated, 128.into()).expect("parameters");
        session.encrypt(&Mechanism::AesGcm(parameters), find(&session, label), plain).expect("encrypted")
    }

    /// What names a key of this token, and nothing else.
    pub fn name_of(&self, key: &str) -> String {
        format!("pkcs11:token={};object={key}", self.label.replace(' ', "%20"))
    }

    /// As [`Self::name_of`], with the way to it.
    pub fn uri(&self, key: &str) -> String {
        let (module, pin) = (self.library.module.display(), self.pin_file());
        format!("{}?module-path={module}&pin-source=file:{}", self.name_of(key), pin.display())
    }

    pub fn serial(&self) -> String {
        self.library.functions.get_token_info(self.slot).expect("a token").serial_number().to_owned()
    }

    pub fn module(&self) -> &Path {
        &self.library.module
    }

    /// The file that [`Self::uri`] names.
    pub fn pin_file(&self) -> PathBuf {
        self.library.folder.join(format!("pin-{}", self.label.replace(' ', "-")))
    }

    pub fn write_pin(&self, pin: &str) {
        fs::write(self.pin_file(), pin).expect("a file with a PIN");
        fs::set_permissions(self.pin_file(), fs::Permissions::from_mode(0o600)).expect("its mode");
    }

    /// The variable with which another process finds this token.
    pub fn environment(&self) -> (&'static str, PathBuf) {
        (self.library.variable, self.library.configuration())
    }

    /// Signs the whole process out, as somebody else in it may.
    pub fn sign_out(&self) {
        let session = self.library.functions.open_ro_session(self.slot).expect("a session");
        session.logout().expect("signed out");
    }

    /// Tries a wrong PIN, as somebody else may.
    pub fn try_wrong_pin(&self) {
        let session = self.library.functions.open_ro_session(self.slot).expect("a session");
        session.login(UserType::User, Some(&pin("not it, not it"))).expect_err("a wrong PIN");
    }

    /// Sessions with the token, of the whole process; where the token says so.
    pub fn sessions(&self) -> Option<u64> {
        self.library.functions.get_token_info(self.slot).expect("a token").session_count()
    }

    /// What the token says of its PIN: one try is left, and it is locked.
    pub fn pin_state(&self) -> (bool, bool) {
        let about = self.library.functions.get_token_info(self.slot).expect("a token");
        (about.user_pin_final_try(), about.user_pin_locked())
    }

    /// The security officer sets the PIN anew.
    pub fn reset_pin(&self) {
        let session = self.library.functions.open_rw_session(self.slot).expect("a session");
        session.login(UserType::So, Some(&pin(SECURITY_OFFICER))).expect("its officer");
        session.init_pin(&pin(PIN)).expect("a PIN");
        session.logout().expect("signed out");
    }

    /// Ends the module for the whole process: every session of every token is gone.
    pub fn end_module(&self) {
        self.library.functions.clone().finalize().expect("ended");
    }

    /// As [`Self::end_module`], and begins it anew.
    pub fn restart_module(&self) {
        self.end_module();
        self.library.begin();
    }

    /// Has the token answer so from now on (see `tests/pkcs11-token`); kryoptic's alone does.
    pub fn trouble(&self, told: &str) {
        fs::write(self.trouble_file(), told).expect("a file for the module");
    }

    pub fn well_again(&self) {
        fs::remove_file(self.trouble_file()).expect("there was trouble");
    }

    /// Has every call wait.
    pub fn hold(&self) -> Held {
        let file = self.trouble_file();
        rustix::fs::mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        Held { file }
    }

    fn trouble_file(&self) -> PathBuf {
        self.library.folder.join(format!("trouble-{}", self.slot.id()))
    }

    fn session(&self) -> Session {
        let session = self.library.functions.open_rw_session(self.slot).expect("a session");
        match session.login(UserType::User, Some(&pin(PIN))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => session,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Whoever waits to open the FIFO may, as soon as there is a writer, and reads nothing when that is gone. Nobody
        // finds it then.
        let writer = fs::OpenOptions::new().read(true).write(true).open(&self.file);
        fs::remove_file(&self.file).ok();
        drop(writer);
    }
}

/// A folder of this process, in place of those of processes that have ended.
fn make_room(below: &Path, name: &str) -> PathBuf {
    let all = below.join("tokens");
    fs::create_dir_all(&all).expect("a folder for tokens");
    for folder in fs::read_dir(&all).expect("folders").flatten() {
        let process = folder.file_name().to_str().and_then(|n| n.rsplit('-').next()?.parse::<u32>().ok());
        if !process.is_some_and(|id| Path::new(&format!("/proc/{id}")).exists()) {
            // Another process may be at it as well.
            fs::remove_dir_all(folder.path()).ok();
        }
    }
    let all = all.canonicalize().expect("a path");
    let own = all.join(format!("{name}-{}", std::process::id()));
    fs::remove_dir_all(&own).ok();
    own
}

fn pin(text: &str) -> AuthPin {
    AuthPin::new(text.into())
}

fn find(session: &Session, label: &str) -> ObjectHandle {
    let template = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(label.into())];
    session.find_objects(&template).expect("objects")[0]
}
