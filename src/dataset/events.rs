//! `.npyfs/log`: one line for each refusal and recovery, newest last.
//!
//! Lines are appended whole, so daemons that share a store do not mix theirs. A log over the limit
//! becomes `log.1`, and a new one begins.

use crate::disk::paths::{LOG, OLD_LOG};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::disk::clock;
use crate::disk::{Open, StoreDir};
use crate::error::{Context, Result};

const LIMIT: u64 = 8 << 20;

#[derive(Debug)]
pub(crate) struct Events {
    folder: Arc<dyn StoreDir>,
    read_only: bool,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) refusals: u64,
    pub(crate) last_refusal: Option<String>,
}

impl Events {
    pub(crate) fn new(folder: Arc<dyn StoreDir>, read_only: bool) -> Self {
        Self {
            folder,
            read_only,
            state: Mutex::default(),
        }
    }

    /// Notes a refusal, in the log and in the counters.
    pub(crate) fn refusal(&self, line: &str) -> Result<()> {
        let mut state = crate::lock(&self.state);
        state.refusals += 1;
        state.last_refusal = Some(line.to_owned());
        self.append(line)
    }

    /// Notes anything else.
    pub(crate) fn note(&self, line: &str) -> Result<()> {
        let _one_at_a_time = crate::lock(&self.state);
        self.append(line)
    }

    pub(crate) fn state(&self) -> State {
        crate::lock(&self.state).clone()
    }

    fn append(&self, line: &str) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        // A name may hold a line break; a line of the log may not.
        let line = line.replace(['\n', '\r'], "?");
        let line = format!("{} {line}\n", clock::iso(clock::now()));
        let write = || -> std::io::Result<()> {
            self.folder.make_dir(Path::new(".npyfs"))?;
            let blob = self.folder.open(Path::new(LOG), Open::Append)?;
            let len = blob.len()?;
            blob.write_at(line.as_bytes(), len)?;
            if len > LIMIT {
                self.folder.rename(Path::new(LOG), Path::new(OLD_LOG))?;
            }
            Ok(())
        };
        write().context(|| format!("cannot write {LOG}"))
    }
}
