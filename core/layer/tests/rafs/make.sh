#!/bin/sh
# Makes the images of this folder anew: nydus-image 2.2.0 (crate nydus-rs) as $1, root, GNU tar, python3. The images are
# not the same bit for bit each time, and the lists of files are made of the same trees.
set -eu
image=$1
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
umask 022

python3 - <<'PYTHON'
import os, random, shutil

random.seed(6)
words = [bytes(random.choices(b"abcdefgh", k=random.randint(3, 9))) for _ in range(40)]


def text(size):
    return b" ".join(random.choices(words, k=size // 3))[:size]


def write(path, data, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


shared = text(3 * 4096)
noise = random.randbytes(5000)
write("tree/etc/os-release", b"NAME=Test\n")
write("tree/usr/bin/tool", shared + text(1000), 0o4755)
write("tree/usr/lib/twice", shared + shared[:4096] + b"end")
write("tree/usr/lib/noise", noise)
write("tree/usr/lib/zeros", bytes(3 * 4096 + 1))
write("tree/usr/lib/whole", text(2 * 4096))
write("tree/empty", b"")
write("tree/z/y/x/w/deep", text(10))
os.makedirs("tree/many")
for number in range(260):
    write(f"tree/many/file-with-a-long-name-{number:04}", b"%d" % (number % 7))
write("tree/" + "n" * 255, b"long name")
write(b"tree/not-utf8-\xff", b"bytes")
os.mkdir("tree/nothing", 0o1777)
os.chmod("tree/nothing", 0o1777)
os.link("tree/usr/bin/tool", "tree/usr/bin/same-tool")
os.link("tree/usr/bin/tool", "tree/another-tool")
os.symlink("usr/bin/tool", "tree/link")
os.symlink("/" + "t" * 1000, "tree/long-link")
os.mknod("tree/null", 0o020666, os.makedev(1, 3))
os.mknod("tree/disk", 0o060660, os.makedev(259, 70000))
os.mkfifo("tree/fifo", 0o600)
os.chown("tree/usr/lib/noise", 70000, 1000, follow_symlinks=False)
os.chown("tree/link", 1, 2, follow_symlinks=False)
os.setxattr("tree/usr/bin/tool", "user.comment", b"a\x00value")
os.setxattr("tree/usr/bin/tool", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
os.setxattr("tree/nothing", "user.empty", b"")
os.chmod("tree", 0o751)

# What a second image shares with the first one, and what it does not.
write("next/usr/bin/tool", shared + text(4096), 0o755)
write("next/new", text(9000))

# Two layers.
write("lower/keep/file", text(5000))
write("lower/gone", text(300))
write("lower/replaced/inside", b"inside")
write("lower/opaque/hidden", b"hidden")
write("upper/.wh.gone", b"")
write("upper/replaced", text(6000))
write("upper/opaque/.wh..wh..opq", b"")
write("upper/opaque/seen", b"seen")
write("merged/keep/file", open("lower/keep/file", "rb").read())
write("merged/replaced", open("upper/replaced", "rb").read())
write("merged/opaque/seen", b"seen")

# Two gzip layers. Long matches and small deflate blocks, so that a small stream has several contexts.
phrases = [text(random.randint(40, 120)) for _ in range(120)]


def prose(size):
    return b"".join(random.choices(phrases, k=size // 40))[:size]


write("under/usr/lib/first", prose(1_400_000), 0o755)
write("under/usr/lib/noise", noise + prose(5000))
write("under/usr/lib/second", prose(1_800_000))
write("under/usr/lib/small", b"small")
write("under/usr/lib/zeros", bytes(1_200_000))
write("under/usr/lib/third", prose(900_000))
write("under/gone", text(300))
write("under/empty", b"")
os.symlink("first", "under/usr/lib/link")
os.link("under/usr/lib/small", "under/usr/lib/same")
os.setxattr("under/usr/lib/first", "user.comment", b"a\x00value")
write("over/.wh.gone", b"")
write("over/usr/lib/second", prose(300_000))
for number in range(20):
    write(f"over/many/{number}", prose(random.randint(1, 60_000)))
shutil.copytree("under", "both", symlinks=True, ignore=lambda *_: ["gone", "second", "same"])
os.link("both/usr/lib/small", "both/usr/lib/same")
os.setxattr("both/usr/lib/first", "user.comment", b"a\x00value")
shutil.copytree("over", "both", dirs_exist_ok=True, ignore=lambda *_: [".wh.gone"])

for top in ("under", "over", "both"):
    for folder, _, files in os.walk(top, topdown=False):
        for name in [*files, "."]:
            path = os.path.join(folder, name)
            os.utime(path, (0, 1_700_000_000 + len(path) - len(top)), follow_symlinks=False)

for top in ("tree", "next", "lower", "upper", "merged"):
    for folder, _, files in os.walk(top, topdown=False):
        for name in files:
            path = os.path.join(folder, name)
            os.utime(path, ns=(0, (1_700_000_000 + len(path) - len(top)) * 10**9 + len(name)), follow_symlinks=False)
        os.utime(folder, ns=(0, (1_600_000_000 + len(folder) - len(top)) * 10**9), follow_symlinks=False)
PYTHON

cat > list.py <<'PYTHON'
import hashlib, json, os, stat, sys

# Every name, in the order of the bytes of its path.
def describe(path, name):
    info = os.lstat(path)
    kind = stat.S_IFMT(info.st_mode)
    entry = {"path": name.hex(), "mode": info.st_mode, "uid": info.st_uid, "gid": info.st_gid}
    entry["mtime"] = [info.st_mtime_ns // 10**9, info.st_mtime_ns % 10**9]
    if kind in (stat.S_IFREG, stat.S_IFLNK):
        entry["size"] = info.st_size
    if kind != stat.S_IFDIR:
        entry["links"] = info.st_nlink
    if kind == stat.S_IFREG:
        entry["sha256"] = hashlib.sha256(open(path, "rb").read()).hexdigest()
    if kind == stat.S_IFLNK:
        entry["target"] = os.readlink(path).hex()
    if kind in (stat.S_IFBLK, stat.S_IFCHR):
        entry["device"] = [os.major(info.st_rdev), os.minor(info.st_rdev)]
    xattrs = {x: os.getxattr(path, x, follow_symlinks=False).hex() for x in os.listxattr(path, follow_symlinks=False)}
    if xattrs:
        entry["xattrs"] = xattrs
    return entry


top = os.fsencode(sys.argv[1])
found = [describe(top, b"")]
for folder, folders, files in os.walk(top):
    for name in folders + files:
        path = os.path.join(folder, name)
        found.append(describe(path, path[len(top) + 1 :]))
found.sort(key=lambda entry: bytes.fromhex(entry["path"]))
for entry in found:
    print(json.dumps(entry))
PYTHON

for top in tree next merged over both; do
    python3 list.py "$top" | gzip -9n > "$top.jsonl.gz"
done

# create NAME TYPE SOURCE OPTION...: an image in NAME.boot.gz and NAME.blob.
create() {
    name=$1 type=$2 source=$3
    shift 3
    "$image" create -l warn -t "$type" --chunk-size 0x1000 -B "$name.boot" -b "$name.blob" "$@" "$source" > /dev/null
}
create none dir-rafs tree --compressor none --digester sha256
create lz4 dir-rafs tree --compressor lz4_block --digester blake3
create zstd dir-rafs tree --compressor zstd --digester blake3 --features blob-toc
create sha dir-rafs tree --compressor zstd --digester sha256 --features blob-toc
(cd tree && find . -printf '%P\n' | sed 's,^$,.,' | LC_ALL=C sort > ../names)
tar --format=posix --xattrs --xattrs-include='*' --no-recursion -C tree --exclude='./fifo' --exclude=fifo -T names -cf tree.tar
create tar tar-rafs tree.tar --compressor zstd
printf '/usr/lib/whole\n/many\n/etc\n' | create early dir-rafs tree --compressor zstd --prefetch-policy fs
create next dir-rafs next --compressor zstd --chunk-dict bootstrap=zstd.boot
# As nydusify does it: each layer a blob with its bootstrap inside, then one bootstrap of all.
inline() {
    name=$1 source=$2
    shift 2
    "$image" create -l warn -t dir-rafs --chunk-size 0x1000 --blob-inline-meta --features blob-toc --whiteout-spec none -b "$name.blob" "$@" \
        "$source" > /dev/null
}
inline lower lower
inline upper upper --compressor lz4_block
cat > parts.py <<'PYTHON'
import hashlib, struct, subprocess, sys

blobs, digests, sizes, tocs, lengths = sys.argv[1:], [], [], [], []
for name in blobs:
    blob = open(name + ".blob", "rb").read()
    length = int(blob[-512 + 124 : -512 + 135], 8) + 512
    toc = blob[-length:]
    for at in range(0, length - 512, 128):
        flags, offset, size = struct.unpack_from("<I52xQQ", toc, at)
        if toc[at + 8 : at + 24].rstrip(b"\0") == b"image.boot":
            boot = blob[offset : offset + size]
            if flags == 2:
                boot = subprocess.run(["zstd", "-dcq"], input=boot, stdout=subprocess.PIPE, check=True).stdout
            open(name + ".boot", "wb").write(boot)
    digests.append(hashlib.sha256(blob).hexdigest())
    sizes.append(str(len(blob)))
    tocs.append(hashlib.sha256(toc).hexdigest())
    lengths.append(str(length))
for option, values in (("digests", digests), ("sizes", sizes), ("toc-digests", tocs), ("toc-sizes", lengths)):
    print(f"--blob-{option} {','.join(values)}")
PYTHON
python3 parts.py lower upper > options
# shellcheck disable=SC2046 # options and their values
"$image" merge -l warn -B merged.boot $(cat options) lower.boot upper.boot > /dev/null
# Over gzip layers: as nydusify --oci-ref does it, with indexes that have a bootstrap inside, then one bootstrap of all; and
# a bootstrap of one layer, with an index that is nothing else.
cat > pack.py <<'PYTHON'
import sys, zlib

# Members of so many bytes, with a new block for about 500 symbols.
size = int(sys.argv[1])
data = sys.stdin.buffer.read()
for start in range(0, len(data), size):
    pack = zlib.compressobj(9, zlib.DEFLATED, 31, 3)
    sys.stdout.buffer.write(pack.compress(data[start : start + size]) + pack.flush())
PYTHON
pack() {
    (cd "$1" && find . -printf '%P\n' | sed 's,^$,.,' | LC_ALL=C sort > ../names)
    tar --format=posix --xattrs --xattrs-include='*' --no-recursion -C "$1" -T names -cf - | python3 pack.py "$2" > "$1.tar.gz"
    "$image" create -l warn -t targz-ref --blob-inline-meta --features blob-toc -b "$1.index" "$1.tar.gz" > /dev/null
}
pack under 100000000
pack over 100000
cat > merge.py <<'PYTHON'
import hashlib, struct, subprocess, sys

names, digests, sizes, tocs = [], [], [], []
for name in sys.argv[1:]:
    index = open(name + ".index", "rb").read()
    length = int(index[-512 + 124 : -512 + 135], 8)
    toc = index[-512 - length : -512]
    names.append(hashlib.sha256(open(name + ".tar.gz", "rb").read()).hexdigest())
    for at in range(0, length, 128):
        offset, size = struct.unpack_from("<56xQQ", toc, at)
        if toc[at + 8 : at + 24].rstrip(b"\0") == b"image.boot":
            boot = subprocess.run(["zstd", "-dcq"], input=index[offset : offset + size], stdout=subprocess.PIPE, check=True).stdout
            open(names[-1], "wb").write(boot)
    digests.append(hashlib.sha256(index).hexdigest())
    sizes.append(str(len(index)))
    tocs.append(hashlib.sha256(toc).hexdigest())
for option, values in (("digests", digests), ("sizes", sizes), ("toc-digests", tocs)):
    print(f"--blob-{option} {','.join(values)}")
print(" ".join(names))
PYTHON
python3 merge.py under over > options
# shellcheck disable=SC2046 # options and their values
"$image" merge -l warn -B both.boot $(cat options) > /dev/null
mkdir blobs
"$image" create -l warn -t targz-ref --chunk-size 0x1000 -B over.boot -D blobs over.tar.gz > /dev/null
mv blobs/* bare.index
# Not read: version 5.
create five dir-rafs next -v 5
rm -f five.blob
gzip -9n ./*.boot
mv ./*.boot.gz ./*.blob ./*.index ./*.tar.gz ./*.jsonl.gz "$here"
