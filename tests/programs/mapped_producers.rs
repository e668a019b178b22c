//! Producers that write through a shared mapping: under a temporary name, then a rename.

use crate::common;

use common::{Mount, python};

#[test]
fn a_rename_commits_what_a_mapping_has_changed_and_not_written_yet() {
    require!(fuse, python);
    let mount = Mount::new();
    std::fs::create_dir(mount.path("d")).unwrap();
    let script = r"
import os, sys, numpy as np
os.chdir(sys.argv[1])
m = np.lib.format.open_memmap('x.tmp', mode='w+', dtype='f8', shape=(300000, 3))
m[:] = 7.5
os.rename('x.tmp', 'x.npy')
assert (np.load('data.npy', mmap_mode='r') == 7.5).all()
";
    python(script, &[mount.path("d")]);
    mount.finish();
}

#[test]
fn what_is_written_after_the_rename_is_refused_and_not_lost_in_silence() {
    require!(fuse, python);
    let mount = Mount::new();
    mount.expect_warning("its rename has committed what was written before");
    std::fs::create_dir(mount.path("d")).unwrap();
    let script = r"
import os, sys, numpy as np
os.chdir(sys.argv[1])
m = np.lib.format.open_memmap('x.tmp', mode='w+', dtype='f8', shape=(3000, 3))
m[:] = 1
os.rename('x.tmp', 'x.npy')
m[:] = 2
try:
    m.flush()
except PermissionError:
    pass
else:
    raise SystemExit('a flush of lost rows succeeded')
assert (np.load('data.npy') == 1).all() and (np.load('x.npy') == 1).all()
";
    python(script, &[mount.path("d")]);
    mount.finish();
}
