// event-source-polyfill, which reads with Node's `fetch`.

import polyfill from 'event-source-polyfill';
import { listenTo, url } from './hear.mjs';

listenTo(new polyfill.EventSourcePolyfill(url));
