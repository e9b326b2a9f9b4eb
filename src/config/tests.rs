use super::*;
use clap::CommandFactory;
use std::collections::HashMap;
use std::io::Write;

/// A home that exists nowhere: defaults must not depend on the machine.
const HOME: (&str, &str) = ("HOME", "/users/nobody");

fn load_in(args: &[&str], env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env: HashMap<&str, &str> = env.iter().copied().collect();
    let args = ["tarpon", "serve"].iter().chain(args);
    match parse(args, |name| env.get(name).map(OsString::from))? {
        Command::Serve(config) => Ok(*config),
        _ => unreachable!("the verb is serve"),
    }
}

fn load(args: &[&str]) -> Result<Config, ConfigError> {
    load_in(args, &[HOME])
}

fn message(args: &[&str], env: &[(&str, &str)]) -> String {
    load_in(args, &[&[HOME], env].concat())
        .unwrap_err()
        .to_string()
}

fn file(text: &str) -> (tempfile::NamedTempFile, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    (file, path)
}

/// For each key a value that is not the default.
const OTHER: [(&str, &str); 49] = [
    ("listen", "[::1]:9"),
    ("admin_listen", "unix:/run/tarpon/admin"),
    ("trust_proxy", "10.0.0.0/8"),
    ("tls_cert", "/cert"),
    ("tls_key", "/key"),
    ("tls_client_ca", "/ca"),
    ("tls_client_crl", "/crl"),
    ("tls_client_san", "*.ci.example.org"),
    ("state", "/elsewhere"),
    ("shutdown_grace", "0"),
    ("stall_timeout", "7s"),
    ("idle_timeout", "8s"),
    ("log_format", "json"),
    ("upstream", "git.example.org"),
    ("no_default_upstreams", "true"),
    ("upstream_ignore_case", "git.example.org"),
    ("follow", "refs/pull/*"),
    ("ref_check_interval", "20s"),
    ("fetch_interval", "250ms"),
    ("upstream_rate", "3"),
    ("webhook_secrets", "/secrets"),
    ("access", "git.example.org=token"),
    ("tokens", "/tokens"),
    ("oidc", "https://ci.example.org;farm;namespace_id=7"),
    ("oidc_ca", "/ca"),
    ("upstream_token", "git.example.org=/token"),
    ("access_stale", "5m"),
    ("maintenance_idle", "3s"),
    ("unreachable_expiry", "2d"),
    ("clone_timeout", "2h"),
    ("clone_size_limit", "20G"),
    ("git_memory_limit", "2G"),
    ("cache_limit", "500G"),
    ("cache_low", "400G"),
    ("cache_free_floor", "2%"),
    ("scrub_interval", "12h"),
    ("store", "s3://farm/tarpon"),
    ("store_readonly", "true"),
    ("store_redirect", "https://s3.example.org"),
    ("store_writer", "true"),
    ("store_header", "x-tenant=farm"),
    ("store_expiry", "60d"),
    ("store_limit", "20T"),
    ("warm_limit", "100G"),
    ("warm_for", "1m"),
    ("level", "3"),
    ("cores", "1023"),
    ("encoders", "1022"),
    ("io_driver", "epoll"),
];

fn other_flags() -> Vec<String> {
    OTHER
        .iter()
        .map(|(key, value)| format!("--{}={value}", key.replace('_', "-")))
        .collect()
}

#[test]
fn defaults() {
    let config = load(&[]).unwrap();
    assert_eq!(listens(&config), ["127.0.0.1:8080"]);
    let Listeners { tls, admin, .. } = &config.listeners;
    assert_eq!((tls, admin), (&None, &None));
    assert_eq!(config.listeners.trust_proxy, Proxies::default());
    assert_eq!(config.state, Path::new("/users/nobody/.cache/tarpon"));
    assert_eq!(config.shutdown_grace, Duration::from_secs(30));
    assert_eq!(config.stall_timeout, Duration::from_secs(60));
    assert_eq!(config.ref_check_interval, Duration::from_secs(10));
    assert_eq!(config.fetch_interval, Duration::from_secs(900));
    assert_eq!((config.upstream_rate, config.webhook_secrets), (10, None));
    assert_eq!(config.maintenance_idle, Duration::from_secs(600));
    assert_eq!(config.unreachable_expiry, Duration::from_secs(86_400));
    assert_eq!(config.clone_timeout, Duration::from_secs(3600));
    assert_eq!(config.clone_size_limit, Share::Percent(50));
    assert_eq!(config.git_memory_limit_bytes, 4 << 30);
    assert_eq!(config.cache_limit, Share::Percent(80));
    assert_eq!(config.cache_low, None);
    assert_eq!(config.level, 1);
    assert_eq!(config.encoders, config.cores);
    assert_eq!(config.io_driver, IoDriver::Auto);
    assert!(config.follow.is_empty());
    assert_eq!(config.store, None);
    let store = load(&["--store", "s3://farm"]).unwrap().store.unwrap();
    assert_eq!(store.expiry, Duration::from_secs(30 * 86_400));
    let github = config.upstreams.url_for("github.com", "rust-lang/log");
    assert_eq!(github.as_deref(), Some("https://github.com/rust-lang/log"));
}

#[test]
fn every_key_works_from_flag_environment_and_file_alike() {
    let known: Vec<String> = cli::keys().into_iter().map(|key| key.name).collect();
    let mut listed: Vec<&str> = OTHER.iter().map(|(key, _)| *key).collect();
    let mut sorted = known.clone();
    sorted.sort();
    listed.sort_unstable();
    assert_eq!(sorted, listed, "OTHER must name every key");

    let flags = other_flags();
    let by_flag = load(&flags.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let names: Vec<String> = OTHER.iter().map(|(key, _)| key::env_name(key)).collect();
    let mut env: Vec<(&str, &str)> = names
        .iter()
        .zip(OTHER)
        .map(|(name, (_, value))| (name.as_str(), value))
        .collect();
    env.push(HOME);
    assert_eq!(load_in(&[], &env).unwrap(), by_flag);
    let text: String = OTHER
        .iter()
        .map(|(key, value)| format!("{key} = {value:?}\n"))
        .collect();
    let (_kept, path) = file(&text);
    let by_file = Config {
        file: None,
        ..load(&["--config", &path]).unwrap()
    };
    assert_eq!(by_file, by_flag);
}

#[test]
fn every_key_changes_the_configuration() {
    let pair = ["--tls-cert=/before", "--tls-key=/before"];
    let clients = ["--tls-client-ca=/before", "--tls-client-san=before"];
    let among_others = |key: &str| match key {
        "no_default_upstreams" => vec!["--upstream=github.com"],
        "tls_cert" | "tls_key" => pair.to_vec(),
        _ if key.starts_with("tls_client") => [pair, clients].concat(),
        "upstream_ignore_case" => vec!["--upstream=git.example.org"],
        "upstream_token" => vec![
            "--upstream=git.example.org",
            "--no-default-upstreams",
            "--access=git.example.org=open",
        ],
        _ if key.starts_with("store_") || key.starts_with("warm_") => vec!["--store=s3://bucket"],
        "access" => vec!["--upstream=git.example.org", "--no-default-upstreams"],
        _ => vec![],
    };
    for ((key, _), flag) in OTHER.iter().zip(other_flags()) {
        let mut args = among_others(key);
        let before = load(&args).unwrap();
        let (name, _) = flag.split_once('=').unwrap();
        args.retain(|given| !given.starts_with(&format!("{name}=")));
        args.push(&flag);
        assert_ne!(load(&args).unwrap(), before, "{flag}");
    }
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let (_kept, path) =
        file("level = 2\ncores = 2\nfetch_interval = \"2m\"\nupstream = [\"file.example\"]\n");
    let env = [
        HOME,
        ("TARPON_CONFIG", path.as_str()),
        ("TARPON_LEVEL", "3"),
        ("TARPON_CORES", "3"),
        (
            "TARPON_UPSTREAM",
            "env.example, other.example=http://127.0.0.1:3000",
        ),
    ];
    let config = load_in(&["--level", "4"], &env).unwrap();
    assert_eq!(config.level, 4, "flag");
    assert_eq!(config.cores.get(), 3, "environment");
    assert_eq!(config.fetch_interval, Duration::from_secs(120), "file");
    assert_eq!(config.maintenance_idle, Duration::from_secs(600));
    assert_eq!(config.clone_timeout, Duration::from_secs(3600), "default");
    // Lists are taken whole from the highest source, not joined.
    assert!(!config.upstreams.contains("file.example"));
    assert!(config.upstreams.contains("env.example"));
    let other = config.upstreams.url_for("other.example", "a");
    assert_eq!(other.as_deref(), Some("http://127.0.0.1:3000/a"));
    let config = load_in(&["--upstream", "flag.example"], &env).unwrap();
    assert!(!config.upstreams.contains("env.example"));
    // A file named by a flag replaces the one that the environment names.
    let (_kept_too, second) = file("idle_timeout = \"5s\"");
    let config = load_in(&["--config", &second], &env).unwrap();
    assert_eq!(config.idle_timeout, Duration::from_secs(5));
    assert_eq!(config.fetch_interval, Duration::from_secs(900));
}

fn listens(config: &Config) -> Vec<String> {
    let shown = |listen: &Listen| match listen.tls {
        true => format!("tls:{}", listen.at),
        false => listen.at.to_string(),
    };
    config.listeners.listen.iter().map(shown).collect()
}

#[test]
fn listeners_are_plain_tls_and_socket_files() {
    let pair = ["--tls-cert=/c", "--tls-key=/k"];
    let given = |args: &[&str]| listens(&load(args).unwrap());
    let three = [
        "--listen=127.0.0.1:1",
        "--listen=unix:/run/t",
        "--listen=[::1]:2",
    ];
    assert_eq!(given(&three), ["127.0.0.1:1", "unix:/run/t", "[::1]:2"]);
    // With a pair and none that is said to be TLS all are that can be.
    let all = given(&[&three[..], &pair].concat());
    assert_eq!(all, ["tls:127.0.0.1:1", "unix:/run/t", "tls:[::1]:2"]);
    assert_eq!(given(&pair), ["tls:127.0.0.1:8080"]);
    let one = given(
        &[
            &pair[..],
            &["--listen=127.0.0.1:1", "--listen=tls:127.0.0.1:2"],
        ]
        .concat(),
    );
    assert_eq!(one, ["127.0.0.1:1", "tls:127.0.0.1:2"]);
    let env = [HOME, ("TARPON_LISTEN", "127.0.0.1:1, unix:/run/t")];
    let config = load_in(&[], &env).unwrap();
    assert_eq!(listens(&config), ["127.0.0.1:1", "unix:/run/t"]);
}

#[test]
fn what_tls_needs_is_there_or_nothing_starts() {
    let pair = ["--tls-cert=/c", "--tls-key=/k"];
    let ca = ["--tls-client-ca=/a"];
    for (args, said) in [
        (
            vec!["--listen=tls:127.0.0.1:1"],
            "only with --tls-cert and --tls-key",
        ),
        (
            vec!["--listen=127.0.0.1:1", "--listen=127.0.0.1:1"],
            "each place once",
        ),
        (
            [&pair[..], &["--listen=[::]:1", "--listen=tls:[::]:1"]].concat(),
            "each place once",
        ),
        (
            vec!["--listen=unix:/run/t", "--admin-listen=unix:/run/t"],
            "another file than those of --listen",
        ),
        (vec!["--tls-cert=/c"], "one file for each --tls-key"),
        (vec!["--tls-key=/k"], "one file for each --tls-cert"),
        (
            [&pair[..], &["--tls-cert=/d"]].concat(),
            "one file for each --tls-key",
        ),
        (
            [&pair[..], &["--listen=unix:/run/t"]].concat(),
            "only with a listener on an address",
        ),
        (ca.to_vec(), "--tls-client-san"),
        (
            [&pair[..], &ca].concat(),
            "only with at least one --tls-client-san",
        ),
        (
            [&ca[..], &["--tls-client-san=a"]].concat(),
            "only with --tls-cert and --tls-key",
        ),
        (
            [&pair[..], &["--tls-client-crl=/l"]].concat(),
            "only with --tls-client-ca",
        ),
        (
            [&pair[..], &["--tls-client-san=a"]].concat(),
            "only with --tls-client-ca",
        ),
        (
            [&pair[..], &ca, &["--tls-client-san=*"]].concat(),
            "a name of client certificates",
        ),
        (vec!["--listen=tls:unix:/run/t"], "an IP address and a port"),
        (vec!["--listen=unix:run/t"], "an absolute path"),
        (
            vec!["--admin-listen=127.0.0.1:1"],
            "unix: and an absolute path",
        ),
        (vec!["--trust-proxy=10.0.0.1/8"], "a network such as"),
    ] {
        let message = message(&args, &[]);
        assert!(message.contains(said), "{args:?}: {message}");
    }
}

#[test]
fn an_empty_variable_is_not_set() {
    let env = [
        HOME,
        ("TARPON_LEVEL", ""),
        ("TARPON_CONFIG", ""),
        ("TARPON_UPSTREAM", " ,"),
    ];
    assert_eq!(load_in(&[], &env).unwrap(), load(&[]).unwrap());
}

#[test]
fn a_switch_can_be_set_and_unset() {
    let env = [
        HOME,
        ("TARPON_NO_DEFAULT_UPSTREAMS", "true"),
        ("TARPON_UPSTREAM", "x"),
    ];
    assert!(!load_in(&[], &env).unwrap().upstreams.contains("github.com"));
    let config = load_in(&["--no-default-upstreams=false"], &env).unwrap();
    assert!(config.upstreams.contains("github.com"));
    let config = load(&["--no-default-upstreams", "--upstream", "x"]).unwrap();
    assert_eq!(config.upstreams.iter().count(), 1);
}

#[test]
fn the_state_directory_is_found() {
    let state = |env: &[(&str, &str)]| load_in(&[], env).map(|config| config.state);
    let xdg = ("XDG_CACHE_HOME", "/xdg");
    let systemd = ("STATE_DIRECTORY", "/var/lib/tarpon:/var/lib/other");
    assert_eq!(state(&[HOME, xdg]).unwrap(), Path::new("/xdg/tarpon"));
    assert_eq!(
        state(&[HOME, xdg, systemd]).unwrap(),
        Path::new("/var/lib/tarpon")
    );
    let given = ("TARPON_STATE", "/given");
    assert_eq!(
        state(&[HOME, xdg, systemd, given]).unwrap(),
        Path::new("/given")
    );
    // Relative ones are void, as the XDG specification says.
    assert_eq!(
        state(&[HOME, ("XDG_CACHE_HOME", "x")]).unwrap(),
        load(&[]).unwrap().state
    );
    assert!(matches!(state(&[]), Err(ConfigError::NoState)));
    let relative = load(&["--state", "here"]).unwrap().state;
    assert_eq!(relative, std::env::current_dir().unwrap().join("here"));
}

#[test]
fn a_wrong_value_is_named_with_key_origin_and_what_is_allowed() {
    let wrong = [
        ("listen", "8080", "an IP address and a port"),
        ("listen", ":8080", "an IP address and a port"),
        ("state", "~/x", "'~' is not expanded"),
        ("shutdown_grace", "25h", "from 0s to 24h"),
        ("stall_timeout", "0", "from 100ms to 24h"),
        ("idle_timeout", "1", "250ms, 90s, 15m, 1h or 1d"),
        ("log_format", "yaml", "auto, human or json"),
        (
            "upstream",
            "a=ext::sh",
            "https://, http://, ssh://, git://, file://",
        ),
        ("no_default_upstreams", "maybe", "true or false"),
        ("no_default_upstreams", "true", "at least one upstream"),
        ("follow", "pull/*", "such as refs/pull/*"),
        ("fetch_interval", "1ms", "from 100ms to 720h"),
        ("clone_timeout", "never", "from 100ms to 720h"),
        ("clone_size_limit", "0%", "1% to 100%"),
        ("git_memory_limit", "50%", "at least 128M"),
        ("cache_limit", "0", "bytes such as 500G"),
        ("cache_limit", "500", "write 500G"),
        ("cache_free_floor", "100%", "0% to 99%"),
        ("maintenance_idle", "3661d", "from 100ms to 87840h"),
        ("unreachable_expiry", "0", "or never"),
        ("cache_limit", "101%", "1% to 100%"),
        ("cache_low", "80%", "less than --cache-limit"),
        ("cache_low", "none", "1% to 100%"),
        ("cache_free_floor", "lots", "0% to 99%"),
        ("level", "20", "a whole number from 1 to 19"),
        ("cores", "0", "a whole number from 1 to 1024"),
        ("encoders", "-1", "a whole number from 1 to 1024"),
        ("io_driver", "kqueue", "auto, uring or epoll"),
    ];
    for (key, value, allowed) in wrong {
        let flag = format!("--{}={value}", key.replace('_', "-"));
        let variable = key::env_name(key);
        let (_kept, path) = file(&format!("{key} = {value:?}"));
        let said = [
            (
                message(&[&flag], &[]),
                format!("the flag --{}", key.replace('_', "-")),
            ),
            (
                message(&[], &[(&variable, value)]),
                format!("the environment variable {variable}"),
            ),
            (
                message(&["--config", &path], &[]),
                format!("the file {path}"),
            ),
        ];
        for (text, origin) in said {
            let start = format!("{key} = {value:?} from {origin} is not valid; allowed: ");
            assert!(text.starts_with(&start), "{text}");
            assert!(text[start.len()..].contains(allowed), "{text}");
        }
    }
}

#[test]
fn one_host_with_two_bases_is_refused() {
    let text = message(
        &["--upstream", "x=http://a/", "--upstream", "x=http://b/"],
        &[],
    );
    assert!(
        text.contains("upstream = \"x\" from the flag --upstream"),
        "{text}"
    );
    assert!(text.contains("one base URL for each host"), "{text}");
}

#[test]
fn a_value_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let args = ["tarpon", "serve", "--level"].map(OsString::from);
    let args = args.into_iter().chain([OsString::from_vec(vec![0xff])]);
    let error = parse(args, |name| (name == HOME.0).then(|| HOME.1.into())).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("level = ") && text.contains("valid UTF-8"),
        "{text}"
    );
}

#[test]
fn the_file_is_checked() {
    let said = |text: &str| {
        let (_kept, path) = file(text);
        (message(&["--config", &path], &[]), path)
    };
    let (text, path) = said("fetch_intervall = \"1m\"");
    assert!(text.contains("unknown key \"fetch_intervall\""), "{text}");
    assert!(
        text.contains(&path) && text.contains("did you mean fetch_interval?"),
        "{text}"
    );
    let (text, _) = said("fetch-interval = \"1m\"");
    assert!(text.contains("did you mean fetch_interval?"), "{text}");
    let (text, _) = said("timeout = \"1m\"");
    assert!(
        text.contains("stall_timeout or idle_timeout or clone_timeout"),
        "{text}"
    );
    let (text, _) = said("xyzzy = 1");
    assert!(text.contains("known keys: listen, admin_listen,"), "{text}");
    let (text, _) = said("config = \"x\"");
    assert!(text.contains("unknown key \"config\""), "{text}");
    let (text, _) = said("level = [1]");
    assert!(
        text.contains("level in the file") && text.contains("one value"),
        "{text}"
    );
    let (text, _) = said("upstream = [[1]]");
    assert!(text.contains("an array of strings"), "{text}");
    let (text, _) = said("[serve]\nlevel = 1");
    assert!(text.contains("unknown key \"serve\""), "{text}");
    let (text, _) = said("level = 1\nlevel 2\n");
    assert!(
        text.contains("is not valid TOML") && text.contains("line 2"),
        "{text}"
    );
    let text = message(&["--config", "/nonexistent/x.toml"], &[]);
    assert!(
        text.contains("/nonexistent/x.toml") && text.contains("No such file"),
        "{text}"
    );
}

#[test]
fn the_file_takes_numbers_booleans_and_arrays() {
    let (_kept, path) = file(
        "level = 5\nno_default_upstreams = true\nupstream = [\"a\", \"b=file:///srv/\"]\n\
         follow = \"refs/pull/*\"\n",
    );
    let config = load(&["--config", &path]).unwrap();
    assert_eq!(config.level, 5);
    assert_eq!(config.upstreams.iter().count(), 2);
    assert_eq!(config.follow, ["refs/pull/*"]);
    let (_kept, path) = file("upstream = []");
    let empty = Config {
        file: None,
        ..load(&["--config", &path]).unwrap()
    };
    assert_eq!(empty, load(&[]).unwrap());
}

fn help(verb: &str) -> String {
    let command = Cli::command().term_width(100);
    let error = command
        .try_get_matches_from(["tarpon", verb, "--help"])
        .unwrap_err();
    assert_eq!(error.exit_code(), 0);
    error
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn help_tells_a_newcomer_what_to_do() {
    let top = Cli::command().render_long_help().to_string();
    for phrase in [
        "serve",
        "restore",
        "Examples:",
        "snapshot.tar.zst",
        "Exit codes:",
        "1  wrong",
    ] {
        assert!(top.contains(phrase), "{phrase:?} in:\n{top}");
    }
    let serve = help("serve");
    let phrases = [
        "Run the server",
        "Usage: tarpon serve [OPTIONS]",
        "Serving: --config <FILE>",
        "Upstreams: --upstream <HOST[=BASE_URL]>",
        "Cache: --cache-limit <SIZE>",
        "Threads: --cores <N>",
        "$STATE_DIRECTORY",
        "$XDG_CACHE_HOME/tarpon",
        "--fetch-interval 5m is TARPON_FETCH_INTERVAL=5m and fetch_interval = \"5m\"",
        "A flag wins over the environment",
        "tarpon serve --no-default-upstreams --upstream local=file:///srv/git/",
        "Exit codes: 0 stopped by SIGTERM",
    ];
    for phrase in phrases {
        assert!(serve.contains(phrase), "{phrase:?} in:\n{serve}");
    }
    let restore = help("restore");
    for phrase in [
        "<REPO_URL> <DIR>",
        "--server <URL>",
        "TARPON_SERVER",
        "TARPON_TOKEN",
        "Who asks: --cacert <FILE>",
        "--send-upstream-credential",
        "--insecure-credentials",
        "Examples:",
    ] {
        assert!(restore.contains(phrase), "{phrase:?} in:\n{restore}");
    }
}

#[test]
fn the_defaults_that_help_names_are_the_defaults() {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    let mut args = Vec::new();
    for arg in serve.get_arguments() {
        let text = arg.get_help().map(ToString::to_string).unwrap_or_default();
        if let Some((_, default)) = text.split_once("[default: ") {
            let default = default.split(']').next().unwrap();
            args.push(format!("--{}={default}", arg.get_long().unwrap()));
        }
    }
    assert!(args.len() >= 11, "{args:?}");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_eq!(load(&args).unwrap(), load(&[]).unwrap());
}

#[test]
fn usage_errors_and_help_have_their_exit_codes() {
    let code = |args: &[&str]| parse(args, |_| None).unwrap_err().report();
    assert_eq!(code(&["tarpon", "--version"]), 0);
    assert_eq!(code(&["tarpon", "serve", "--nonsense"]), 1);
    assert_eq!(
        code(&["tarpon", "serve", "--level", "1", "--level", "2"]),
        1
    );
    assert_eq!(code(&["tarpon"]), 1);
    assert_eq!(code(&["tarpon", "serve", "--level", "99"]), 1);
}

#[test]
fn restore_takes_a_repository_a_directory_and_a_server() {
    let args = [
        "tarpon",
        "restore",
        "https://github.com/a/b",
        "dir",
        "--server",
        "http://x:1",
    ];
    let Command::Restore(args) = parse(args, |_| None).unwrap() else {
        panic!("the verb is restore");
    };
    assert_eq!(args.repo_url.text(), "https://github.com/a/b");
    assert_eq!(args.dir, Path::new("dir"));
    assert_eq!(args.server.text(), "http://x:1");
}

/// A variable with a slip in its name is named; what is a setting, or another's, is not.
#[test]
fn variables_that_are_no_setting_are_named() {
    let names = [
        "TARPON_LISTN",
        "TARPON_LISTEN",
        "TARPON_LOG",
        "TARPON_SERVER",
        "PATH",
    ];
    let lines = unknown_variables(names);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("TARPON_LISTN"), "{lines:?}");
    assert!(lines[0].contains("did you mean listen?"), "{lines:?}");
}

/// What is wrong in a file is said in one line, with its place.
#[test]
fn a_file_that_is_no_toml_is_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, "cores = 1\nlisten = [\n").unwrap();
    let arguments = [
        "tarpon".into(),
        "serve".into(),
        "--config".into(),
        path.into_os_string(),
    ];
    let error = parse(arguments, |_| None).unwrap_err().to_string();
    assert!(error.contains("is not valid TOML: line "), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}
