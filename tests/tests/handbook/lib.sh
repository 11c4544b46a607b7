# What the stages of the pages share.

# await COMMAND...: polls until the command succeeds, a minute at most.
await() {
    local until=$((SECONDS + 60))
    while [ "$SECONDS" -lt "$until" ]; do
        if "$@" > /dev/null 2>&1; then return 0; fi
        sleep 0.02 # ok: the pause between two looks
    done
    echo "in vain: $*" >&2
    return 1
}

# there PATTERN: waits until a file has such a name.
there() { await is_there "$1"; }
is_there() { compgen -G "$1"; }

# What the packages would make.
installed() {
    mkdir -p /etc/penstock/{high,low}-keys /var/lib/penstock-{high,low} /var/spool/penstock/{inbox,receipts} /var/log/penstock
    chmod 750 /etc/penstock/{high,low}-keys
    chmod 770 /var/spool/penstock/inbox
}

# Two paired sides at their default places, with a socket for messages at 127.0.0.1:5140 and a sink that writes a file.
# The public halves are high.pub and low.pub in the current folder.
paired() {
    installed
    penstock-high init --origin plant-7 > high.pub 2> /dev/null
    penstock-low init --name soc-1 > low.pub 2> /dev/null
    penstock-high pair low.pub 2> /dev/null
    penstock-low pair high.pub 2> /dev/null
    high_setting '[[listener]]' 'name = "any"' 'protocol = "tcp"' 'bind = "127.0.0.1:5140"'
    low_setting '[[sink]]' 'name = "siem"' 'type = "file"' 'path = "/var/log/penstock"'
    # Files are taken as soon as they fit their .sha256.
    sed -i 's/^settle = .*/settle = "0s"/; s/^rescan-interval = .*/rescan-interval = "100ms"/' /etc/penstock/low.toml
}

high_setting() { printf '%s\n' "$@" >> /etc/penstock/high.toml; }
low_setting() { printf '%s\n' "$@" >> /etc/penstock/low.toml; }

# tell N [TEXT]: N messages to the high side, which has committed them at the end.
told=0
tell() {
    local n
    for n in $(seq "$1"); do printf '<13>1 2026-11-25T00:00:00Z host app - - - %s %s\n' "${2:-hello}" "$n"; done \
        > /dev/tcp/127.0.0.1/5140
    told=$((told + $1))
    await has_received "$told"
}
has_received() {
    [ "$(penstock-high status --json | jq '[.lanes[].received] | add')" -ge "$1" ]
}

# Seals, and carries into the inbox what the outbox holds and was not carried yet.
carry() {
    local bundle name
    penstock-high seal > /dev/null
    for bundle in /var/lib/penstock-high/outbox/*.pstk; do
        name=$(basename "$bundle")
        [ ! -e "/run/carried-$name" ] || continue
        cp "$bundle.sha256" /var/spool/penstock/inbox/
        cp "$bundle" "/var/spool/penstock/inbox/$name.part"
        mv "/var/spool/penstock/inbox/$name.part" "/var/spool/penstock/inbox/$name"
        touch "/run/carried-$name"
    done
}

# delivered N: the sink has written N records.
delivered() { await has_delivered "$1"; }
has_delivered() { [ "$(cat /var/log/penstock/siem*.ndjson 2> /dev/null | wc -l)" -ge "$1" ]; }

# certificates NAME...: server.pem and server.key by an authority, clients-ca.pem, in /etc/penstock; and in tls/.
certificates() {
    local name names=()
    for name in penstock.example.org 10.0.0.5 "$@"; do names+=(--server-name "$name"); done
    penstock-high mint --dir /etc/penstock/tls "${names[@]}" --client any > /dev/null 2>&1
    cp /etc/penstock/tls/server.pem /etc/penstock/tls/server.key /etc/penstock/
    cp /etc/penstock/tls/ca.pem /etc/penstock/clients-ca.pem
}

# block SIDE N: appends the page's Nth block of TOML (from 1) to a side's configuration, in the place of sections
# that stand there once. Files that it names below /etc/penstock and that are not there are made.
block() {
    local config=/etc/penstock/$1.toml toml=/run/stage/toml-$2 name path
    for name in $(sed -n 's/^\[\([a-z-]*\)\].*/\1/p' "$toml"); do
        awk -v name="[$name]" '/^\[/ { out = index($0, name) == 1 } !out' "$config" > /run/config
        cat /run/config > "$config"
    done
    echo >> "$config"
    cat "$toml" >> "$config"
    grep -o '"/etc/penstock/[^"]*"' "$toml" | tr -d '"' | while read -r path; do
        if [ -e "$path" ]; then
            continue
        elif [[ $path == *.pem ]]; then
            cp /etc/penstock/tls/ca.pem "$path"
        else
            openssl rand -hex 32 > "$path"
            chmod 600 "$path"
        fi
    done
    # The last file may have been there.
    return 0
}

# serve PORT: answers every POST at https://127.0.0.1:PORT with 200, by the certificate of `certificates`.
serve() {
    python3 - "$1" > /results/serve.log 2>&1 <<'END' &
import http.server, ssl, sys
class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def do_GET(self):
        body = b"[]" if self.path.startswith("/api/useractivity/authlogs") else b'{"logs":[],"totalCount":0}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Collector)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/etc/penstock/tls/server.pem", "/etc/penstock/tls/server.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
END
    await bash -c ": > /dev/tcp/127.0.0.1/$1"
}

# Used by the page itself.
step() { # number, where, the exit code that is due
    number=$1 where=$2 due=$3
}
failed() {
    echo "$1" > /results/failed
    exit 1
}
ended() {
    echo "$1" > "/results/$number.code"
    [ "$1" = "$due" ] || failed "$where ended with $1 and should end with $due"
    : > /run/stdin
}
staged() {
    [ "$1" = 0 ] || failed "$where: the stage before it ended with $1"
}
: > /run/stdin
cd /root || exit
