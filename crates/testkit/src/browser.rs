//! A Chromium of one's own, without a window, driven through chromedriver.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::postgres_private::free_port;

/// Longer than any page takes on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Started with it, gone with it, and so is all it knew.
pub struct Browser {
    runtime: Runtime,
    client: Client,
    driver: Child,
}

impl Browser {
    pub fn start() -> Self {
        let port = free_port();
        let mut driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("no chromedriver here: run `make deps`");
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = driver.try_wait().expect("asks after it");
            assert!(ended.is_none() && Instant::now() < deadline, "chromedriver does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        let runtime = Runtime::new().expect("a runtime");
        // Root has no sandbox of Chromium's; containers have little shared memory.
        let args = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1360,1000"];
        let wanted = json!({ "goog:chromeOptions": { "args": args }, "goog:loggingPrefs": { "browser": "ALL" } });
        let Value::Object(wanted) = wanted else { unreachable!("an object") };
        let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
        builder.capabilities(wanted);
        let url = format!("http://127.0.0.1:{port}");
        let client = runtime.block_on(builder.connect(&url)).expect("Chromium starts");
        Self { runtime, client, driver }
    }

    pub fn open(&self, url: &str) {
        self.runtime.block_on(self.client.goto(url)).unwrap_or_else(|error| panic!("cannot open {url}: {error}"));
    }

    /// The path and what follows it.
    pub fn place(&self) -> String {
        let url = self.runtime.block_on(self.client.current_url()).expect("a place");
        url[url::Position::BeforePath..].to_owned()
    }

    pub fn title(&self) -> String {
        self.runtime.block_on(self.client.title()).expect("a title")
    }

    /// What somebody reads in the first element that this selector finds, which is waited for.
    pub fn text(&self, css: &str) -> String {
        let element = self.find(css);
        self.runtime.block_on(element.text()).expect("a text")
    }

    pub fn has(&self, css: &str) -> bool {
        let found = self.runtime.block_on(self.client.find_all(Locator::Css(css)));
        found.is_ok_and(|found| !found.is_empty())
    }

    pub fn type_into(&self, css: &str, text: &str) {
        let element = self.find(css);
        self.runtime
            .block_on(element.send_keys(text))
            .unwrap_or_else(|error| panic!("cannot type into {css}: {error}"));
    }

    /// Clicks, and leaves it to whoever asks next to wait for what comes of it.
    pub fn click(&self, css: &str) {
        let element = self.find(css);
        self.runtime.block_on(element.click()).unwrap_or_else(|error| panic!("cannot click on {css}: {error}"));
    }

    /// Clicks on the link with this text.
    pub fn follow(&self, text: &str) {
        let waited = self.runtime.block_on(self.client.wait().at_most(PATIENCE).for_element(Locator::LinkText(text)));
        let link = waited.unwrap_or_else(|_| panic!("no link `{text}` at {}", self.place()));
        self.runtime.block_on(link.click()).expect("a click");
    }

    /// Waits until `css` reads as `is` has it.
    pub fn until(&self, css: &str, is: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A page in between has no such element, or one that is gone by the time it is read.
            let found = self.runtime.block_on(self.client.find(Locator::Css(css)));
            let text = found.ok().and_then(|element| self.runtime.block_on(element.text()).ok()).unwrap_or_default();
            if is(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "`{css}` at {} still reads: {text}", self.place());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn run(&self, script: &str) -> Value {
        self.runtime.block_on(self.client.execute(script, Vec::new())).expect("the script runs")
    }

    /// Takes or leaves what a page asks in a window of its own.
    pub fn answer(&self, yes: bool) {
        self.runtime.block_on(async {
            if yes { self.client.accept_alert().await } else { self.client.dismiss_alert().await }.expect("a question");
        });
    }

    /// Has pages be in light or in dark.
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// A picture of what is seen.
    pub fn picture(&self, file: &Path) {
        let taken = self.runtime.block_on(self.client.screenshot()).expect("a picture");
        std::fs::write(file, taken).expect("a file");
    }

    /// Presses a key wherever the focus is.
    pub fn press(&self, key: char) {
        let focused = self.runtime.block_on(self.client.active_element()).expect("a focus");
        self.runtime.block_on(focused.send_keys(&key.to_string())).expect("a key");
    }

    fn devtools(&self, command: &str, params: Value) {
        let run = ChromeCommand { command: command.to_owned(), params };
        self.runtime.block_on(self.client.issue_cmd(run)).expect("a command of the browser's own");
    }

    fn find(&self, css: &str) -> Element {
        let waited = self.runtime.block_on(self.client.wait().at_most(PATIENCE).for_element(Locator::Css(css)));
        waited.unwrap_or_else(|_| panic!("no `{css}` at {}: {}", self.place(), self.title()))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.runtime.block_on(self.client.clone().close()).ok();
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

/// Of chromedriver's own, beside WebDriver's.
#[derive(Debug)]
struct ChromeCommand {
    command: String,
    params: Value,
}

impl fantoccini::wd::WebDriverCompatibleCommand for ChromeCommand {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (hyper::Method, Option<String>) {
        (hyper::Method::POST, Some(json!({ "cmd": self.command, "params": self.params }).to_string()))
    }
}
