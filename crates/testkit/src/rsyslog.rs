//! An rsyslog of one's own: what it made of the messages it was sent is in a file.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Started with it, stopped and removed with it.
pub struct Rsyslog {
    dir: TempDir,
    port: u16,
    process: Option<Child>,
}

/// A message as rsyslog reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub priority: String,
    pub at: String,
    pub host: String,
    pub application: String,
    pub process: String,
    pub id: String,
    pub structured_data: String,
    pub text: String,
}

impl Rsyslog {
    pub fn start() -> Self {
        let dir = TempDir::with_prefix("enfold-rsyslog-").expect("a temporary directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let at = dir.path().display();
        let settings = format!(
            "global(workDirectory=\"{at}\")\n\
             module(load=\"imtcp\")\n\
             input(type=\"imtcp\" port=\"{port}\" address=\"127.0.0.1\")\n\
             module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             input(type=\"imuxsock\" Socket=\"{at}/socket\" UseSpecialParser=\"off\" UseSysTimeStamp=\"off\" IgnoreTimestamp=\"off\")\n\
             template(name=\"parts\" type=\"string\" string=\"%pri%\\t%timereported:::date-rfc3339%\\t%hostname%\\t\
             %app-name%\\t%procid%\\t%msgid%\\t%structured-data%\\t%msg%\\n\")\n\
             *.* action(type=\"omfile\" file=\"{at}/messages\" template=\"parts\")\n"
        );
        std::fs::write(dir.path().join("rsyslog.conf"), settings).expect("it is written");
        let mut rsyslog = Self { dir, port, process: None };
        rsyslog.up();
        rsyslog
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Takes datagrams.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn up(&mut self) {
        let file = |name: &str| self.dir.path().join(name);
        let process = Command::new("/usr/sbin/rsyslogd")
            .arg("-n")
            .arg("-f")
            .arg(file("rsyslog.conf"))
            .arg("-i")
            .arg(file("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("no rsyslogd here: run `make deps`");
        self.process = Some(process);
        let began = Instant::now();
        while TcpStream::connect(self.address()).is_err() || !self.socket().exists() {
            assert!(began.elapsed() < Duration::from_secs(30), "rsyslogd does not listen");
            std::thread::yield_now();
        }
    }

    /// Stops it, once it has written what it took.
    pub fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            let asked = Command::new("kill").arg(process.id().to_string()).status();
            assert!(asked.is_ok_and(|status| status.success()), "it was running");
            process.wait().expect("it was running");
        }
    }

    /// What it has written so far.
    pub fn messages(&self) -> Vec<Message> {
        let text = std::fs::read_to_string(self.dir.path().join("messages")).unwrap_or_default();
        // A line that is being written has no end yet.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(message).collect()
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().and_then(|()| process.wait()).ok();
        }
    }
}

fn message(line: &str) -> Message {
    let parts: Vec<String> = line.splitn(8, '\t').map(str::to_owned).collect();
    let parts: [String; 8] = parts.try_into().expect("all parts of the template");
    let [priority, at, host, application, process, id, structured_data, text] = parts;
    Message { priority, at, host, application, process, id, structured_data, text }
}
