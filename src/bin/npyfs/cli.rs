//! The command line: every way of calling the program ends in one of the same few structs.
//!
//! Three forms of mounting fold into [`MountArgs`]: `npyfs mount STORE MOUNTPOINT`,
//! `mount.npyfs STORE MOUNTPOINT -o ...` (mount(8) and fstab), and `npyfs STORE MOUNTPOINT -o ...`
//! (mount.fuse3, for `mount -t fuse.npyfs`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser};

use crate::commands::Command;
use crate::exit;
use crate::mount_options::{MountArgs, MountFlags, Tuning};

/// A filesystem in which any program grows one NumPy array by writing .npy files.
#[derive(Parser, Debug)]
#[command(name = "npyfs", version, after_help = exit::help(), subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// How mount(8) calls: the letters are its own, not ours.
#[derive(Parser, Debug)]
#[command(name = "mount.npyfs", version, after_help = exit::help_for_mount())]
struct HelperCli {
    /// The directory that keeps the datasets
    store: PathBuf,
    /// Where to show them
    mountpoint: PathBuf,
    /// Tolerate unknown mount options
    #[arg(short = 's')]
    sloppy: bool,
    /// Check everything, but do not mount
    #[arg(short = 'f')]
    fake: bool,
    /// Accepted: there is no mtab to write
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Accepted
    #[arg(short = 'v')]
    verbose: bool,
    /// Accepted: the type that mount(8) was asked for
    #[arg(short = 't', value_name = "TYPE")]
    fstype: Option<String>,
    #[arg(short = 'o', value_name = "OPT[,OPT...]")]
    words: Vec<String>,
}

/// The command that these arguments (the program's name first) ask for.
///
/// # Errors
/// clap's, which `--help` and `--version` are too: `error.exit()` prints and ends.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Command, clap::Error> {
    if called_by_mount(&arguments) {
        let form = HelperCli::try_parse_from(arguments)?;
        let mut args = MountArgs {
            store: form.store,
            mountpoint: form.mountpoint,
            foreground: false,
            words: form.words,
            log_file: None,
            tuning: Tuning::default(),
            flags: MountFlags::default(),
            fake: form.fake,
        };
        args.fold(form.sloppy).map_err(usage::<HelperCli>)?;
        return Ok(Command::Mount(args));
    }
    let matches = Cli::command().try_get_matches_from(arguments)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let Command::Mount(args) = &mut cli.command {
        args.fold(false).map_err(usage::<Cli>)?;
    }
    Ok(cli.command)
}

/// By our name as mount(8)'s helper, or with a path where a subcommand stands.
pub(crate) fn called_by_mount(arguments: &[OsString]) -> bool {
    let name = arguments
        .first()
        .and_then(|name| Path::new(name).file_name());
    let path = |argument: &OsString| argument.as_encoded_bytes().contains(&b'/');
    name.is_some_and(|name| name == "mount.npyfs")
        || (arguments.len() >= 3 && path(&arguments[1]) && path(&arguments[2]))
}

fn usage<C: CommandFactory>(message: String) -> clap::Error {
    C::command().error(ErrorKind::InvalidValue, message)
}

#[cfg(test)]
mod tests {
    use npyfs::fs::AllowDelete;

    use super::*;
    use crate::mount_options::Size;

    fn try_mount(line: &str) -> Result<MountArgs, String> {
        let arguments = line.split(' ').map(OsString::from).collect();
        match parse(arguments).map_err(|error| error.to_string())? {
            Command::Mount(args) => Ok(args),
            other => panic!("{line} is {other:?}"),
        }
    }

    fn mount(line: &str) -> MountArgs {
        try_mount(line).unwrap()
    }

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        Cli::command().debug_assert();
        HelperCli::command().debug_assert();
    }

    #[test]
    fn a_word_and_its_long_option_mean_the_same() {
        let words = mount(
            "npyfs mount s m -o allow_delete,cached,threads=3,names=reuse \
             -o sync-interval=0.5,rejected_limit=2K,memory-limit=1G,allow_other",
        );
        let options = mount(
            "npyfs mount s m --allow-delete --cached --threads 3 --names reuse --sync-interval=0.5 \
             --rejected-limit=2048 --memory-limit=1024M --allow-other",
        );
        assert_eq!(words.tuning, options.tuning);
        assert_eq!(words.flags, options.flags);
        assert_eq!(words.tuning.rejected_limit, Size(2048));
        assert_eq!(words.tuning.allow_delete, AllowDelete::Chunks);
        let all = [
            "-o allow_delete=all",
            "-o allow-delete=all",
            "--allow-delete=all",
        ];
        for all in all.map(|all| mount(&format!("npyfs mount s m {all}"))) {
            assert_eq!(all.tuning.allow_delete, AllowDelete::All);
        }
        assert_eq!(
            mount("npyfs mount s m").tuning.allow_delete,
            AllowDelete::Nothing
        );
        let error = try_mount("npyfs mount s m -o allow_delete=yes").unwrap_err();
        assert!(error.contains("'allow_delete=yes': must be all"), "{error}");
    }

    #[test]
    fn the_three_calling_forms_agree() {
        let forms = [
            "npyfs mount /s /m -o ro,nosuid,x-systemd.automount,_netdev",
            "/sbin/mount.npyfs /s /m -n -o ro,nosuid,nofail,user=ann,comment=x",
            "npyfs /s /m -o ro,nodev,suid,dev,nosuid,nodev",
        ];
        for form in forms {
            let args = mount(form);
            assert_eq!(args.store, Path::new("/s"), "{form}");
            assert_eq!(args.tuning, Tuning::default(), "{form}");
            assert!(args.flags.read_only && !args.flags.suid, "{form}");
            assert!(!args.foreground && !args.fake, "{form}");
        }
        assert!(mount("mount.npyfs /s /m -f").fake);
    }

    #[test]
    fn words_that_cannot_be_are_refused_by_name() {
        for (line, said) in [
            (
                "npyfs mount s m -o ro,noatim",
                "unknown mount option 'noatim': did you mean noatime?",
            ),
            (
                "npyfs mount s m -o alow-delete",
                "'alow-delete': did you mean allow_delete[=all]?",
            ),
            (
                "npyfs mount s m -o memlimit=1G",
                "'memlimit=1G': did you mean memory_limit=SIZE?",
            ),
            (
                "npyfs mount s m -o zzz",
                "npyfs's: allow_delete[=all], allow_other",
            ),
            ("npyfs mount s m -o ro=1", "'ro=1': ro takes no value"),
            (
                "npyfs mount s m -o threads",
                "give it a value, as threads=N",
            ),
            (
                "npyfs mount s m -o uid=7",
                "'uid=7': npyfs shows the owners",
            ),
            ("npyfs mount s m -o umask=022", "chown and chmod"),
            (
                "npyfs mount s m -o threads=0",
                "'threads=0': must be a number from 1 to 64",
            ),
            (
                "npyfs mount s m -o names=twice",
                "'names=twice': must be once or reuse",
            ),
            (
                "npyfs mount s m -o memory-limit=1Q",
                "'memory-limit=1Q': must be a number of bytes",
            ),
            (
                "npyfs mount s m -o sync-interval=nan",
                "'sync-interval=nan': must be a number",
            ),
            (
                "mount.npyfs /s /m -o remount",
                "unknown mount option 'remount'",
            ),
        ] {
            let error = try_mount(line).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
        mount("mount.npyfs /s /m -s -o never-heard-of");
    }

    #[test]
    fn a_comma_between_quotes_is_part_of_a_word() {
        let label = r#"context="system_u:object_r:tmp_t:s0:c127,c456""#;
        let line = format!(r#"mount.npyfs /s /m -o {label},ro,log_file="/a,b",nofail"#);
        let args = mount(&line);
        assert_eq!(args.flags.labels, [label]);
        assert_eq!(args.log_file.as_deref(), Some(Path::new("/a,b")));
        assert!(args.flags.read_only);
    }
}
