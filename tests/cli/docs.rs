//! SEMANTICS.md and FORMAT.md are true of the code: a script makes each statement that can be tried,
//! and another reads the store that it leaves, knowing nothing but the format.

use crate::common;

use common::{Mount, script};

fn try_statements(mount: Mount) {
    // Each refusal is a warning in the daemon's log.
    mount.expect_warning("EPERM");
    for refusal in [
        "EINVAL",
        "EBUSY",
        "EEXIST",
        "ECANCELED",
        "EBADMSG",
        "ENOTEMPTY",
    ] {
        mount.expect_warning(refusal);
    }
    let root = mount.path("").to_str().unwrap().to_owned();
    assert_eq!(script("docs/semantics.py", &[root]), "ok\n");
    let store = mount.store("ds");
    let copy = tempfile::tempdir().unwrap();
    let mount = mount.remount();
    common::run(
        std::process::Command::new("cp")
            .arg("-r")
            .args([store.as_path(), copy.path()]),
    );
    let dataset = copy.path().join("ds");
    let [dataset, store] = [&dataset, &store].map(|path| path.to_str().unwrap());
    let said = script("docs/format.py", &[dataset, "38", store]);
    mount.finish();
    assert_eq!(said, "10\n");
}

#[test]
fn operations_do_what_semantics_md_says_and_the_store_is_what_format_md_says() {
    require!(fuse, python);
    try_statements(Mount::new());
}

#[test]
fn operations_do_what_semantics_md_says_with_everything_cached() {
    require!(fuse, python);
    try_statements(Mount::builder().words("cached").start());
}
