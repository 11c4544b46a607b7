# Officers, each with keys of their own; alice types her passphrase.
paired
mkdir -p /run/passphrase && echo 'a passphrase that is long enough' > /run/passphrase/alice
chmod 600 /run/passphrase/alice
#> penstock-high officer init
# The terminal's part: what is typed is in a file.
penstock-high() {
    local arguments=("$@") last
    if [ "${*: -1}" = --passphrase ]; then
        arguments=("${@:1:$#-1}" --passphrase-file /run/passphrase/alice)
    elif [[ "$*" == *"--key alice-keys"* ]]; then
        arguments+=(--passphrase-file /run/passphrase/alice)
    fi
    command penstock-high "${arguments[@]}"
}
#> penstock-high officer add alice.pub
for name in bob carol; do penstock-high officer init --name $name --dir $name-keys > /dev/null 2>&1; done
for name in alice bob carol; do cp $name-keys/officer.pub $name.pub; done
#> penstock-high review
block high 1; block low 2
systemctl start penstock-high
for n in 1 2; do tell 1; command penstock-high seal > /dev/null; done
#> penstock-high review routine/2
#> penstock-high release routine/2 --key alice-keys          #
#= 64
#> penstock-high release routine/2 --key alice-keys --yes
#> penstock-high release --refuse
tell 1; command penstock-high seal > /dev/null
#> mkdir desk
tell 1; command penstock-high seal > /dev/null
#> age -d
age() { script --quiet --return --command "$(printf '%q ' age "$@")" /dev/null < /run/passphrase/alice; }
cd desk && cp -r ../alice-keys . && cp "$(ls *.summary | head -n 1)" /run/one.summary
cp /run/one.summary plant-7-routine-0000000002-1f0c6d0e5b7a9c33.pstk.summary
