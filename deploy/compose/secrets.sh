#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the directory ./secrets for deploy/compose/tls.yml: certificates of the nodes and of
# the proxy, the key of gossip, and the list of callers with a token for operators. It needs
# bucketring in the PATH.
set -euo pipefail
umask 077
[ ! -e secrets ] || { echo "./secrets exists: remove it to make new ones" >&2; exit 1; }
mkdir secrets
cd secrets
quietly() { "$@" 2>certs.log || { cat certs.log >&2; exit 1; }; rm certs.log; } # without the next steps of each command
quietly bucketring certs init
quietly bucketring certs issue node1 node2 node3 --dns bucketring # the name of all, since addresses of containers change
quietly bucketring certs issue --client proxy
quietly bucketring certs init --dir public --name "proxy"
quietly bucketring certs issue proxy --dir public
head -c 32 /dev/urandom | base64 > cluster.key
cat > auth.yaml <<CALLERS
callers:
- name: proxy
  certificates: ["bucketring://client/proxy"]
  scopes: [call]
CALLERS
bucketring auth token --name ops --scopes call,read,admin --out ops.token >> auth.yaml
echo 'made ./secrets; next, see docs/deploy.md: export BUCKETRING_USER=$(id -u):$(id -g)' >&2
