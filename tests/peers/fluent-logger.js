// Sends records with the official Node client of the Forward protocol, and prints the number of each
// line once its chunk is acknowledged: node fluent-logger.js MODULES OPTIONS < LINES
//
// OPTIONS is JSON: port, mode (an event mode of the client), map (lines are JSON objects and sent as
// maps, not as texts), and, if wanted, key, user, password, ca (a file: TLS), rate (lines a second).
'use strict';

const fs = require('fs');
const path = require('path');
const {FluentClient} = require(path.join(process.argv[2], '@fluent-org/logger'));

const options = JSON.parse(process.argv[3]);
const lines = fs.readFileSync(0, 'utf8').split('\n').filter(line => line !== '');

const client = new FluentClient('penstock', {
  eventMode: options.mode,
  milliseconds: true,
  flushInterval: 20,
  sendQueueIntervalFlushLimit: {length: 100},
  sendQueueMaxLimit: {size: Infinity, length: Infinity},
  ack: {ackTimeout: 3000},
  // The delay doubles up to the maximum; nothing is given up.
  eventRetry: {attempts: 1000, delay: 50, maxDelay: 500},
  socket: {
    host: 'localhost',
    port: options.port,
    timeout: 10000,
    reconnect: {delay: 50, maxDelay: 500},
    ...(options.ca ? {tls: {ca: fs.readFileSync(options.ca)}} : {}),
  },
  ...(options.key
    ? {
        security: {
          clientHostname: 'node',
          sharedKey: options.key,
          ...(options.user ? {username: options.user, password: options.password} : {}),
        },
      }
    : {}),
});

client.socketOn('error', error => process.stderr.write(`${error}\n`));

const pause = time => new Promise(resolve => setTimeout(resolve, time));

async function main() {
  const acknowledged = [];
  const begun = Date.now();
  for (const [number, line] of lines.entries()) {
    const record = options.map ? JSON.parse(line) : {log: line};
    const done = client.emit('events', record).then(() => process.stdout.write(`acknowledged ${number}\n`));
    acknowledged.push(done);
    if (options.rate && number % 10 === 9) {
      await pause(Math.max(0, begun + (1000 * number) / options.rate - Date.now()));
    }
  }
  await Promise.all(acknowledged);
  await client.disconnect();
  process.stdout.write('all acknowledged\n');
}

main().catch(error => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
