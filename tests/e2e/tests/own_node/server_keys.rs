//! Servers on machines of their own that share an etcd: by a secret they give each other what signs the cluster's
//! certificates and tokens, when they start and when one of them exchanges it.

use std::process::{Command, Stdio};

use skiff_e2e::Cluster;
use skiff_e2e::cluster::skiff_binary;

/// Plays three machines on one network, of which two become servers; the etcd is beside them.
const LIFE: &str = r#"
set -e
mount --make-rprivate /
ip link set lo up
ip link add switch type bridge
ip link set switch up
ip address add 10.9.0.9/24 dev switch
etcd --data-dir "$DATA/etcd" --listen-client-urls http://10.9.0.9:2379 --advertise-client-urls http://10.9.0.9:2379 \
  > "$DATA/etcd.log" 2>&1 &
until curl --silent --fail --max-time 1 http://10.9.0.9:2379/health > /dev/null; do sleep 0.1; done

machine() {
  mkdir -p "$DATA/$1"
  unshare --net --mount bash -c 'mkdir -p /run/skiff && mount -t tmpfs tmpfs /run/skiff && mount -t tmpfs tmpfs /var/log &&
    echo ready && exec sleep 1000' > "$DATA/$1/ready" &
  declare -g "$1=$!"
  until grep -q ready "$DATA/$1/ready"; do sleep 0.1; done
  ip link add name "to-$1" type veth peer name uplink netns "${!1}"
  ip link set "to-$1" master switch up
  on "$1" ip link set lo up
  on "$1" ip address add "$2/24" dev uplink
  on "$1" ip link set uplink up
  on "$1" ip route replace default dev uplink
}
on() { nsenter --net --mount --target "${!1}" -- env HOME="$DATA/$1" "${@:2}"; }
up() {
  on "$1" "$SKIFF_BIN" up --data-dir "$DATA/$1/data" --node-name "$1" --disable-agent \
    --datastore-endpoint http://10.9.0.9:2379 --server-token "$2" > /dev/null
}
bearer() { on a kubectl --kubeconfig /dev/null --certificate-authority "$DATA/b/data/pki/ca.crt" --server "$1" --token "$token" \
  auth whoami -o jsonpath='{.status.userInfo.username}'; }
# Once both have the same key.
a_knows_tokens_of_b() {
  for attempt in $(seq 100); do
    cmp --silent "$DATA/a/data/pki/sa.key" "$DATA/b/data/pki/sa.key" && break
    sleep 0.1
  done
  token=$(on b kubectl --server https://10.9.0.2:6443 create token default)
  for attempt in $(seq 100); do
    told=$(bearer https://10.9.0.1:6443) && break
    sleep 0.1
  done
  echo "a knows who $told is"
}
machine a 10.9.0.1
machine b 10.9.0.2
machine c 10.9.0.3
trap 'for server in a b c; do on $server "$SKIFF_BIN" delete --data-dir "$DATA/$server/data"; done' EXIT

up a "the secret of all servers" & first=$!
up b "the secret of all servers" & second=$!
wait $first
wait $second
cmp "$DATA/a/data/pki/ca.key" "$DATA/b/data/pki/ca.key" && echo "one authority"
there() { on a kubectl --server https://10.9.0.2:6443 "$@"; }
echo "b knows who $(there auth whoami -o jsonpath='{.status.userInfo.username}') is"
token=$(on a kubectl create token default)
echo "b knows who $(bearer https://10.9.0.2:6443) is"

up c "another secret of servers" 2> "$DATA/refused" || grep -o "they were written with another --server-token" "$DATA/refused"
ls "$DATA/c/data/pki"

on a "$SKIFF_BIN" certificate rotate ca --data-dir "$DATA/a/data" | head -1
for attempt in $(seq 100); do
  on b "$SKIFF_BIN" status --data-dir "$DATA/b/data" | grep -q 'ca (former)' && break
  sleep 0.1
done
cmp "$DATA/a/data/pki/ca.key" "$DATA/b/data/pki/ca.key" && echo "one authority again"
on a "$SKIFF_BIN" kubeconfig --data-dir "$DATA/a/data" > "$DATA/new.kubeconfig"
echo "b knows who $(there --kubeconfig "$DATA/new.kubeconfig" auth whoami -o jsonpath='{.status.userInfo.username}') is"

# What was exchanged while a server was down is told when it starts, with what it was told before.
on b "$SKIFF_BIN" down --data-dir "$DATA/b/data"
on b "$SKIFF_BIN" certificate rotate service-account-key --data-dir "$DATA/b/data" | head -1
on b "$SKIFF_BIN" up --data-dir "$DATA/b/data" --disable-agent > /dev/null
a_knows_tokens_of_b

# Another secret: the server where it is exchanged remembers it, the others need it.
on a "$SKIFF_BIN" token rotate --new-server-token short --data-dir "$DATA/a/data" 2> "$DATA/refused" || grep -o "needs 16 characters" "$DATA/refused"
on a "$SKIFF_BIN" token rotate --new-server-token "a later secret of all servers" --data-dir "$DATA/a/data" | grep -o "this server has it"
on b "$SKIFF_BIN" certificate rotate service-account-key --data-dir "$DATA/b/data" 2> /dev/null || echo "b cannot tell of a key"
for attempt in $(seq 100); do
  on b "$SKIFF_BIN" certificate reload --data-dir "$DATA/b/data" 2> "$DATA/refused" || true
  grep -o "written with another --server-token" "$DATA/refused" && break
  sleep 0.1
done
for server in a b; do on $server "$SKIFF_BIN" down --data-dir "$DATA/$server/data"; done
on a "$SKIFF_BIN" up --data-dir "$DATA/a/data" --disable-agent > /dev/null
up b "the secret of all servers" 2> "$DATA/refused" || grep -o "they were written with another --server-token" "$DATA/refused"
up b "a later secret of all servers"
a_knows_tokens_of_b
"#;

#[test]
fn servers_give_each_other_their_keys() {
    if Command::new("etcd").arg("--version").output().is_err() {
        return eprintln!("SKIPPED: there is no etcd on this machine; install Debian's etcd-server");
    }
    let cluster = Cluster::empty("server-keys");
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", LIFE])
        .env("SKIFF_BIN", skiff_binary())
        .env("DATA", cluster.folder())
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .output()
        .expect("the script is run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let expected = "\
one authority
b knows who kubernetes-admin is
b knows who system:serviceaccount:default:default is
they were written with another --server-token
The server goes by it from now on. The former authority is believed until
one authority again
b knows who kubernetes-admin is
The server goes by it when it is started. Tokens of the former key are believed until
a knows who system:serviceaccount:default:default is
needs 16 characters
this server has it
b cannot tell of a key
written with another --server-token
they were written with another --server-token
a knows who system:serviceaccount:default:default is
";
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
}
