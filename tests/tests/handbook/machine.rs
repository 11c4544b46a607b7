//! A machine of its own: the programs of this one, folders of its own under `/etc`, `/var` and so on, a
//! network of its own, and processes that end with it.
//!
//! Made of namespaces, which need no privilege where the kernel grants user namespaces. Inside, everything belongs to
//! root; the services' users are other names of root, so that `chown` to them works for everybody.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tests::agents::program;
use tests::peers::peer;
use tests::process::{Done, run};
use tests::sandbox::Sandbox;

use crate::pages::ROOT;

/// A machine that runs one script.
pub(crate) struct Machine {
    sandbox: Sandbox,
}

impl Machine {
    pub(crate) fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(&format!("handbook-{}", name.replace('/', "-")));
        sandbox.dir("root");
        sandbox.dir("results");
        Self { sandbox }
    }

    /// Writes a file that the script finds as `/run/stage/NAME`.
    pub(crate) fn put(&self, name: &str, text: &str) {
        fs::write(self.sandbox.dir("stage").join(name), text).expect("a file in the sandbox");
    }

    /// What the script wrote as `/results/NAME`.
    pub(crate) fn result(&self, name: &str) -> String {
        let bytes = fs::read(self.results().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn results(&self) -> PathBuf {
        self.sandbox.join("results")
    }

    /// Runs `/run/stage/page.sh` inside, to its end.
    ///
    /// # Panics
    /// When the kernel grants no namespaces.
    pub(crate) fn run(&self) -> Done {
        for name in ["lib.sh", "systemctl.sh"] {
            fs::copy(scripts().join(name), self.sandbox.dir("stage").join(name))
                .unwrap_or_else(|err| panic!("{name}: {err}"));
        }
        // Longer than any page takes on a busy machine.
        let mut command = peer("timeout");
        command.args(["--kill-after=5", "600"]).arg(peer("unshare").get_program());
        command.args(namespaces()).arg("bash").arg(scripts().join("boot.sh"));
        command.arg(self.sandbox.path()).arg(target_dir()).arg(Path::new(ROOT));
        run(&mut command)
    }
}

/// The folder of the programs that were built.
fn target_dir() -> PathBuf {
    let high = program("penstock-high");
    high.parent().expect("a program lies in a folder").to_owned()
}

fn namespaces() -> &'static [&'static str] {
    const OF_A_USER: &[&str] =
        &["--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--kill-child"];
    for flags in [OF_A_USER, &OF_A_USER[2..]] {
        let mut probe = peer("unshare");
        probe.args(flags).arg("true").stderr(Stdio::null());
        if probe.status().is_ok_and(|status| status.success()) {
            return flags;
        }
    }
    let mut probe = Command::new("unshare");
    let why = run(probe.args(OF_A_USER).arg("true")).stderr;
    panic!(
        "the commands of the documentation can't be run: the kernel grants no namespaces: {why}\
         run this as root, or set kernel.unprivileged_userns_clone=1"
    );
}

fn scripts() -> PathBuf {
    Path::new(ROOT).join("tests/tests/handbook")
}
