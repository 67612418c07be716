// Sixty users of a pool of kept connections, as Node's http.Agent keeps them. Each sends a request,
// and the next one 1 to 9 s later. The server ends connections that are idle for 5 s, so about every
// second request needs a new connection. The agent sees the end of a connection at once and does not
// use it again.
'use strict';
const http = require('http');
const agent = new http.Agent({ keepAlive: true });
const port = Number(process.argv[2]);

function ask() {
  const again = () => setTimeout(ask, 1000 + 8000 * Math.random());
  const request = http.get({ port, agent, host: '127.0.0.1', path: '/' }, (answer) => {
    answer.resume();
    answer.on('end', again);
  });
  request.on('error', (error) => {
    console.log(error.code);
    again();
  });
}

for (let user = 0; user < 60; user++) ask();
