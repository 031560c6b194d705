//! The guide for PKCS#11 tokens, followed word by word on SoftHSM.

use enfold_core::text;

use crate::guides::{bash, blocks};
use crate::harness::Sandbox;

const GUIDE: &str = include_str!("../../../../docs/guides/pkcs11.md");

#[test]
fn the_guide_leads_a_new_user_to_a_key_in_a_token() {
    let shop = Sandbox::shop();
    let out = bash(&shop, &blocks(GUIDE, "sh").concat(), &[], &[]);
    assert!(out.contains("sensitive, always sensitive, never extractable, local"), "{out}");
    assert!(out.ends_with("ada@example.com") || out.ends_with("ada@example.com\n"), "{out}");
    assert!(text::decode(shop.read("sealed").trim_end()).is_ok());

    let configuration = shop.path("softhsm2.conf");
    let token = [("SOFTHSM2_CONF", configuration.to_str().unwrap())];
    let serial = [(r"serial=[0-9a-f]+", "serial=[serial]")];
    shop.run_with(&["doctor"], &token).snapshot_hiding("doctor_pkcs11", &serial);

    let pin = shop.read("pin");
    let policy = shop.read("enfold.toml");
    for file in ["enfold.toml", "app.db"] {
        let bytes = std::fs::read(shop.path(file)).unwrap();
        let needle = pin.trim_end().as_bytes();
        assert!(!bytes.windows(needle.len()).any(|w| w == needle), "the PIN is in {file}");
    }

    // What the commands before cannot show: a PIN that is wrong, a key that may leave its token, a token that is gone.
    shop.write("pin", "hunter2-hunter2\n");
    shop.run_with(&["doctor"], &token).snapshot("doctor_pkcs11_wrong_pin");
    shop.write("pin", &pin);
    let weaker = "export SOFTHSM2_CONF=$PWD/softhsm2.conf USER_PIN=$(cat pin)
        pkcs11-tool --module /usr/lib/softhsm/libsofthsm2.so --token-label orders --login --pin env:USER_PIN \
            --keygen --key-type AES:32 --extractable --label loose --id 02";
    bash(&shop, weaker, &[], &[]);
    let way = policy.lines().find_map(|line| line.strip_suffix("\"]")?.split_once('?')).unwrap().1;
    let both = format!("roots = [\"pkcs11:token=orders;object=loose?{way}\", ");
    shop.write("enfold.toml", policy.replace("roots = [", &both));
    shop.run_with(&["doctor"], &token).snapshot_hiding("doctor_pkcs11_extractable", &serial);
    shop.write("enfold.toml", &policy);
    std::fs::rename(shop.path("tokens"), shop.path("away")).unwrap();
    std::fs::create_dir(shop.path("tokens")).unwrap();
    shop.run_with(&["seal", "users.email"], &token).snapshot("seal_without_token");
}
