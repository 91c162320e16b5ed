#!/bin/sh
# Collects the files of relink's container image into a directory: collect-image.sh BINARY DIRECTORY
#
# The image has the binary, the libraries that it loads, and the CA certificates.
set -eu
binary=$1
image=$2

mkdir -p "$image/usr/bin" "$image/etc/ssl/certs" "$image/var/lib/relink"
cp "$binary" "$image/usr/bin/relink"
# Libraries and the loader keep their paths, and links are replaced by files.
ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$image$(dirname "$library")"
    cp --dereference "$library" "$image$library"
done
cp --dereference /etc/ssl/certs/ca-certificates.crt "$image/etc/ssl/certs/"
chmod 700 "$image/var/lib/relink"
printf 'relink:x:65532:65532:relink:/var/lib/relink:/nonexistent\n' > "$image/etc/passwd"
printf 'relink:x:65532:\n' > "$image/etc/group"
