package org.cooperllm.demo

import android.Manifest
import android.app.Activity
import android.app.AlertDialog
import android.os.Build
import android.os.Bundle
import android.os.Handler
import android.os.Looper
import android.view.View
import android.view.inputmethod.EditorInfo
import android.widget.EditText
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.combine
import kotlinx.coroutines.launch
import java.util.concurrent.Executor

/** The one screen with its three pages. It shows what [Learner] knows, and tells it what the user decides. */
class MainActivity : Activity() {
    private val learner get() = (application as DemoApp).learner
    private val onMain = Handler(Looper.getMainLooper()).let { handler -> Executor { handler.post(it) } }
    private var showing: CoroutineScope? = null
    private var page = 0
    private var question: AlertDialog? = null
    private lateinit var notes: NotesPage
    private lateinit var learning: LearningPage
    private lateinit var sent: SentPage

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        notes = NotesPage(part(R.id.notes), ::check, ::delete)
        learning = LearningPage(part(R.id.page_learning), ::takePart, ::practise)
        sent = SentPage(part(R.id.page_sent), ::askToForget)
        part<EditText>(R.id.draft).setOnEditorActionListener { _, action, _ ->
            (action == EditorInfo.IME_ACTION_DONE).also { if (it) write() }
        }
        part<View>(R.id.add).setOnClickListener { write() }
        TABS.forEachIndexed { i, tab -> part<View>(tab).setOnClickListener { turnTo(i) } }
        turnTo(savedInstanceState?.getInt(PAGE) ?: 0)
        notes.openId = savedInstanceState?.getLong(OPEN, NONE)?.takeIf { it != NONE }
        if (savedInstanceState?.getBoolean(ASKING) == true) askToForget()
    }

    override fun onStart() {
        super.onStart()
        val scope = CoroutineScope(SupervisorJob() + onMain.asCoroutineDispatcher())
        showing = scope
        scope.launch {
            combine(learner.notebook, learner.round) { notebook, round -> notebook to round }.collect { (notebook, round) ->
                notes.show(notebook, round.hasModel)
                learning.show(LearningScreen.of(notebook, round))
            }
        }
        scope.launch { learner.sent.collect { sent.show(SentScreen(it)) } }
    }

    override fun onStop() {
        showing?.cancel()
        // Practising with the app open ends with it; the job goes on when the phone is at rest.
        if (!isChangingConfigurations) learner.rest()
        super.onStop()
    }

    override fun onDestroy() {
        question?.dismiss()
        super.onDestroy()
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        outState.putInt(PAGE, page)
        outState.putLong(OPEN, notes.openId ?: NONE)
        outState.putBoolean(ASKING, question?.isShowing == true)
    }

    private fun turnTo(index: Int) {
        page = index
        PAGES.forEachIndexed { i, id -> part<View>(id).isShown(i == index) }
        TABS.forEachIndexed { i, id -> part<View>(id).isSelected = i == index }
    }

    private fun write() {
        val draft = part<EditText>(R.id.draft)
        val text = draft.text.toString()
        draft.text.clear()
        tell { write(text, System.currentTimeMillis()) }
    }

    private fun check(
        id: Long,
        place: String,
    ) = tell { check(id, place) }

    private fun delete(id: Long) = tell { delete(id) }

    private fun takePart(isTakingPart: Boolean) {
        // So that the user sees the phone at work, and can stop it there; the system asks once.
        if (isTakingPart && Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU) {
            requestPermissions(arrayOf(Manifest.permission.POST_NOTIFICATIONS), 0)
        }
        tell { takePart(isTakingPart) }
    }

    private fun practise(isWanted: Boolean) = if (isWanted) learner.practise() else learner.rest()

    private fun askToForget() {
        question =
            AlertDialog
                .Builder(this)
                .setTitle(R.string.forget_question)
                .setMessage(R.string.forget_warning)
                .setPositiveButton(R.string.forget_yes) { _, _ -> tell { forget() } }
                .setNegativeButton(R.string.forget_no, null)
                .show()
    }

    /** Not on this thread, and to its end even where the screen goes. */
    private fun tell(action: suspend Learner.() -> Unit) {
        (application as DemoApp).scope.launch { learner.action() }
    }

    private fun <T : View> part(id: Int): T = window.decorView.find(id)

    private companion object {
        const val PAGE = "page"
        const val OPEN = "open"
        const val ASKING = "asking"
        const val NONE = -1L
        val PAGES = listOf(R.id.page_notes, R.id.page_learning, R.id.page_sent)
        val TABS = listOf(R.id.tab_notes, R.id.tab_learning, R.id.tab_sent)
    }
}
