# Makes a machine of its own below SANDBOX/root and runs the page in it. Arguments: the sandbox, the folder of our
# programs, the project.
set -eu
# A plain user's path lacks `chroot` and `ip`.
PATH=$PATH:/usr/sbin:/sbin
sandbox=$1 programs=$2 project=$3
root=$sandbox/root
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p dev proc sys tmp run/{stage,project} etc var/{lib,log,spool,tmp} root home srv media/{usb,stick,disc} mnt opt/{programs,instead} results usr
chmod 1777 tmp var/tmp
mount --rbind /usr usr
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys 2>/dev/null || mount --rbind /sys sys
for name in bin sbin lib lib32 lib64; do
    if [ -L "/$name" ]; then
        cp -P "/$name" "$name"
    elif [ -d "/$name" ]; then
        mkdir "$name" && mount --rbind "/$name" "$name"
    fi
done
for name in alternatives ssl ld.so.cache nsswitch.conf mime.types services protocols; do
    if [ -d "/etc/$name" ]; then
        mkdir "etc/$name" && mount --rbind "/etc/$name" "etc/$name"
    elif [ -e "/etc/$name" ]; then
        cp "/etc/$name" "etc/$name"
    fi
done
cat > etc/passwd <<'END'
root:x:0:0:root:/root:/bin/bash
penstock-high:x:0:0:Penstock high side:/var/lib/penstock-high:/usr/sbin/nologin
penstock-low:x:0:0:Penstock low side:/var/lib/penstock-low:/usr/sbin/nologin
END
cat > etc/group <<'END'
root:x:0:
adm:x:0:
penstock-high:x:0:
penstock-low:x:0:
END
echo "127.0.0.1 localhost" > etc/hosts
mount --bind "$programs" opt/programs
mount --bind "$sandbox/stage" run/stage
mount --bind "$sandbox/results" results
mount --bind "$project" run/project
ln -s project/tests/samples run/samples
cp "$sandbox/stage/systemctl.sh" opt/instead/systemctl && chmod 755 opt/instead/systemctl
ip link set lo up
exec chroot "$root" /usr/bin/env -i HOME=/root USER=root LOGNAME=root LANG=C.UTF-8 TZ=UTC \
    PATH=/opt/instead:/opt/programs:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    bash /run/stage/page.sh
